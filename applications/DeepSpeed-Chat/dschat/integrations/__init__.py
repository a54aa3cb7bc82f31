"""The penalties of this package inside other people's trainers."""
