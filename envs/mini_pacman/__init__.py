"""Mini-Pacman: maze, compiled rules, one game, many games, and drawing."""
