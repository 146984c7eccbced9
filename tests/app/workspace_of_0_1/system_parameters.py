"""Settings of the old workspace."""

hall_of_fame_size = 2
exploration_epochs = 2
hall_of_fame_epochs = 3
