"""`python -m derp`."""

from derp.cli import main

if __name__ == "__main__":
    main(prog_name="python -m derp")
