"""`python -m s3clip` is the command `s3clip`."""

from s3clip.cli import main

if __name__ == "__main__":
    main()
