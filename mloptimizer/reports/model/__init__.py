"""What a report says, as data: standings, trainings, comparisons, what runs now."""
