"""What a grid will cost: the trainings it has, how long each takes here, and their sum."""
