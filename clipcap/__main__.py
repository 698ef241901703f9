"""`python -m clipcap` lists the commands."""

from clipcap.data.version import program_version

COMMANDS = {
    "clipcap-precompute": "dataset -> cache: encode every image once, tokenise every caption",
    "clipcap-train": "cache -> checkpoint: train a mapper, and GPT-2 with it",
    "clipcap-caption": "image, folder or cache -> captions",
    "clipcap-evaluate": "captions -> BLEU, ROUGE-L, CIDEr-D and more, with intervals and baselines",
    "clipcap-inspect": "say what a cache or a checkpoint is, and whether it is whole; export",
    "clipcap-demo": "run all three stages on drawn scenes, offline",
}


def main() -> None:
    """Print the version and the commands, a line each."""
    print(f"clipcap {program_version()}")
    for name, purpose in COMMANDS.items():
        print(f"  {name:<20}{purpose}")


if __name__ == "__main__":
    main()
