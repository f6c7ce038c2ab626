"""JPEGs of the size of COCO from a folder, parquet and a .tar: in order as embed reads them, and in any as train."""

import io
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from _interleaved import arguments, extra_mb_apart, finish, report, timed

from itm_fast.data import read_captioned_images
from itm_fast.data.readers.image_file import read_image

DISTINCT = 50  # of so many pictures all are copies, which no format knows of
SIDES = 480, 640


def add_flags(parser):
    parser.add_argument("--images", type=int, default=1000, help="images, COCO-5K has 5,000")
    parser.add_argument("--shuffled", type=int, default=100, help="of them read in any order")
    parser.add_argument("--folder", type=Path, help="where the sets lie meanwhile, 0.65 MB an image")


def pictures(scale):
    """JPEGs of 100 to 160 KB: a coarse pattern with grain."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = (max(16, int(side * min(1.0, scale))) for side in SIDES)
    for grain in np.linspace(11, 19, DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grainy = smooth + grain * rng.standard_normal((height, width, 1), dtype=np.float32)
        file = io.BytesIO()
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def write(folder, args):
    """{name: path} of the same images in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, made = max(int(args.images * args.scale), 10), list(pictures(args.scale))
    names, contents = [f"{number:012}.jpg" for number in range(n)], [made[number % DISTINCT] for number in range(n)]
    (folder / "images").mkdir()
    for name, content in zip(names, contents, strict=True):
        (folder / "images" / name).write_bytes(content)
    with tarfile.open(folder / "test.tar", "w") as archive:
        for name, content in zip(names, contents, strict=True):
            for suffix, held in ((".jpg", content), (".txt", b"a caption")):
                member = tarfile.TarInfo(name.replace(".jpg", suffix))
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    kind = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())])
    for file, group in (("groups.parquet", 100), ("one_group.parquet", n)):
        with pq.ParquetWriter(folder / file, kind) as writer:
            for start in range(0, n, group):
                part = slice(start, start + group)
                images = [{"bytes": c, "path": p} for c, p in zip(contents[part], names[part], strict=True)]
                columns = {"image": images, "caption": ["a caption"] * len(images)}
                writer.write_table(pa.Table.from_pydict(columns, kind))
    sizes = [len(content) for content in contents]
    print(f"{n} JPEGs of {min(sizes) / 1e3:.0f} to {max(sizes) / 1e3:.0f} KB, {sum(sizes) / 1e6:.0f} MB")
    return {
        "folder": folder / "images",
        "tar": folder / "test.tar",
        "parquet, groups of 100": folder / "groups.parquet",
        "parquet, one group": folder / "one_group.parquet",
    }


def files_of(path):
    """Images of a set, in order."""
    return sorted(path.iterdir()) if path.is_dir() else read_captioned_images(path).packed


def readers(paths, n_shuffled):
    """Calls that read all images of each set in order, and some in any."""

    def reading(path, order=None):
        def call():
            files = files_of(path)  # opened anew: what was decoded last would be there still
            for file in files if order is None else [files[place] for place in order]:
                read_image(file)

        return call

    order = np.random.default_rng(1).permutation(len(files_of(paths["folder"])))[:n_shuffled]
    calls = {name: reading(path) for name, path in paths.items()}
    return calls | {f"shuffled, {name}": reading(path, order) for name, path in paths.items()}


def main(argv=None):
    args = arguments(argv, __doc__, add_flags)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        paths = write(Path(place), args)
        calls = readers(paths, args.shuffled)
        in_order = list(paths)
        extra = extra_mb_apart(in_order, readers, paths, args.shuffled) if args.scale >= 1 else {}
        ms = timed(calls, max(2, args.rounds // 2))
        bars = [(f"{name}, share of the folder's speed", ms["folder"] / ms[name], -0.9) for name in in_order[1:]]
        bars += [(f"{name}, memory, MB", mb, 200.0) for name, mb in extra.items() if mb is not None]
        shape = f"{len(files_of(paths['folder']))} images in order, {args.shuffled} shuffled"
        return finish(args, [report(args, "reading images", shape, ms, bars)])


if __name__ == "__main__":
    sys.exit(main())
