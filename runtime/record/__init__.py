"""What a run leaves for people and programs to read: metrics, its verdict, and progress on the terminal."""
