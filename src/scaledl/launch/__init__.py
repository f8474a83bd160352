"""Starting ranks elsewhere: batch scripts for Slurm, and what the scripts in `launch/` are made of."""
