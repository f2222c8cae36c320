"""`python -m s3clip.cli` is the command `s3clip`."""

from s3clip.cli import main

main()
