"""``python -m attribench``."""

from attribench.cli import main

if __name__ == "__main__":
    main()
