"""Everything a dataset can be opened from: folders, shards, lists, remote ones, tars of others."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from avdata.images import encode_jpeg
from avdata.load import (
    CacheConfig,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    MemberMap,
    evaluation_config,
    is_folder,
    mix,
    open_dataset,
    unite,
)
from avdata.melspec import log_mel
from avdata.retrying import RetryPolicy
from avdata.waveform import encode_flac
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.layout import Layout
from tests.serving import serving
from tests.shards import CLASSES, draw_dataset, flat_frame, waveform_of

VIEW = EvalView(image_size=8)
CONFIG = evaluation_config(LoaderConfig(batch_size=64, num_workers=0))
ALL_KEYS = [f"clip-{number:05d}" for number in range(20)]


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=1))


def loaded(dataset: Dataset, cache: CacheConfig | None = None) -> list[tuple[str, bytes, list[str]]]:
    """Key, content and labels of each sample."""
    config = CONFIG if cache is None else replace(CONFIG, cache=cache)
    return [
        (key, batch.images[row].numpy().tobytes() + batch.log_mel[row].numpy().tobytes(), batch.label_names()[row])
        for batch in Loader(dataset, VIEW, config)
        for row, key in enumerate(batch.keys)
        if batch.valid[row]
    ]


@pytest.fixture(scope="module")
def expected(drawn: Path) -> list[tuple[str, bytes, list[str]]]:
    return loaded(open_dataset(drawn))


@pytest.fixture
def in_memory(drawn: Path) -> Iterator[str]:
    """The dataset in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(drawn), "/remote/set", recursive=True)
    yield "memory://remote/set"
    memory.rm("/remote", recursive=True)


def test_a_folder_gives_its_samples_and_labels(expected: list) -> None:
    assert [key for key, _, _ in expected] == ALL_KEYS
    assert [labels for _, _, labels in expected] == [[CLASSES[number % 3]] for number in range(20)]
    assert len({content for _, content, _ in expected}) == 20


def test_patterns_lists_and_file_urls_give_the_same(drawn: Path, expected: list) -> None:
    for source in (
        f"{drawn}/train/{{00000..00003}}.tar",
        f"file://{drawn}/train/{{00000..00003}}.tar",
        [drawn / f"train/{number:05d}.tar" for number in range(4)],
        [f"{drawn}/train/{{00000,00001}}.tar", f"{drawn}/train/{{2..3}}.tar".replace("{2..3}", "{00002..00003}")],
        f"file://{drawn}",
        f"{drawn}/",
    ):
        assert loaded(open_dataset(source)) == expected


def test_memory_and_http_give_the_same(drawn: Path, expected: list, in_memory: str, cache: CacheConfig) -> None:
    with serving(drawn) as server:
        for root in (in_memory, server.url):
            assert is_folder(root)
            assert loaded(open_dataset(root, cache=cache), cache) == expected
            shards = open_dataset(f"{root}/train/{{00000..00003}}.tar", cache=cache)
            assert loaded(shards, cache) == expected
        assert server.count(".tar") == 4  # fetched once, though opened twice
    assert len(list(cache.root.glob("*.shard"))) == 8


def test_a_server_that_sends_files_only_as_a_whole(drawn: Path, expected: list, cache: CacheConfig) -> None:
    with serving(drawn) as server:
        server.sends_ranges = False
        assert loaded(open_dataset(server.url, cache=cache), cache) == expected


def test_a_split_is_chosen_and_an_unknown_one_refused(tmp_path: Path, drawn: Path) -> None:
    root = draw_dataset(tmp_path / "set", 3, split="train", num_frames=1, flac=False)
    draw_dataset(root, 2, split="test", first=7, num_frames=1, flac=False)
    assert open_dataset(root, "test").keys.to_pylist() == ["clip-00007", "clip-00008"]
    assert len(open_dataset(root)) == 3
    with pytest.raises(ConfigError, match="no split 'val'; known: train, test"):
        open_dataset(root, "val")
    with serving(root) as server, pytest.raises(ConfigError, match="no split 'val'"):
        open_dataset(server.url, "val")
    for absent in (tmp_path / "absent", [drawn, tmp_path / "absent"]):
        with pytest.raises(ConfigError, match="absent: no such folder"):
            open_dataset(absent, "train")
    with pytest.raises(ConfigError, match="chooses within a prepared folder"):
        open_dataset(root / "train/00000.tar", "test")


def test_failed_clips_and_excluded_flags_are_left_out(tmp_path: Path) -> None:
    root = draw_dataset(
        tmp_path / "set", 8, 3, failed=[2, 3, 4, 5], flags=lambda n: {"silent": n == 1, "still": n == 7}, num_frames=1
    )
    assert open_dataset(root).keys.to_pylist() == [f"clip-{n:05d}" for n in (0, 1, 6, 7)]
    assert open_dataset(root, exclude=["silent", "still"]).keys.to_pylist() == ["clip-00000", "clip-00006"]
    shards = open_dataset(f"{root}/train/{{00000..00002}}.tar", exclude=["still"])
    assert shards.keys.to_pylist() == ["clip-00000", "clip-00001", "clip-00006"]
    with pytest.raises(ConfigError, match=r"unknown flags to exclude \['loud'\]; known: silent, still, short"):
        open_dataset(root, exclude=["loud"])


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "set", 2, flags=lambda n: {"silent": True}, num_frames=1, flac=False)
    with pytest.raises(ConfigError, match=r"no sample is left without the flags \['silent'\]"):
        open_dataset(root, exclude=["silent"])
    with pytest.raises(ConfigError, match=r"without the flags \['silent'\], of those where not still"):
        open_dataset(root, exclude=["silent"], where="not still")


def test_several_datasets_get_their_shares_of_an_epoch(tmp_path: Path) -> None:
    few = open_dataset(draw_dataset(tmp_path / "few", 4, num_frames=1, flac=False, labels=lambda n: ["rain"]))
    many = open_dataset(draw_dataset(tmp_path / "many", 16, first=100, num_frames=1, flac=False))
    mixed = mix([(few, 1.0), (many, 1.0)])
    assert mixed.classes == few.classes
    loader = Loader(mixed, VIEW, LoaderConfig(batch_size=20, num_workers=0))
    counts: dict[str, int] = {}
    for _ in range(12):
        for batch in loader:
            for key, names, color in zip(
                batch.keys, batch.label_names(), batch.images.float().mean((2, 3)), strict=True
            ):
                counts[key] = counts.get(key, 0) + 1
                assert names == (["rain"] if int(key[-5:]) < 100 else [CLASSES[int(key[-5:]) % 3]])
                assert abs(color[0] - int(key[-5:]) * 8 % 256) < 4
    assert [counts[f"clip-{n:05d}"] for n in range(4)] == [30] * 4
    assert [counts[f"clip-{n:05d}"] for n in range(100, 116)] == [pytest.approx(120 / 16, abs=0.5)] * 16


def test_united_datasets_give_every_sample_once(tmp_path: Path, drawn: Path, expected: list) -> None:
    other = draw_dataset(tmp_path / "other", 3, first=50, num_frames=2, flac=False)
    united = open_dataset([drawn, other])
    assert united.weights is None
    found = loaded(united)
    assert found[:20] == expected
    assert [key for key, _, _ in found[20:]] == ["clip-00050", "clip-00051", "clip-00052"]
    assert loaded(unite([open_dataset(other), open_dataset(drawn)])) == found[20:] + found[:20]
    with pytest.raises(ConfigError, match="is a folder among shards"):
        open_dataset([drawn, other / "train/00000.tar"])
    with pytest.raises(ConfigError, match="names a folder twice"):
        open_dataset([drawn, drawn])
    (tmp_path / "link").symlink_to(drawn)
    for same in (f"{drawn}/", f"{drawn}/../{drawn.name}", tmp_path / "link"):
        with pytest.raises(ConfigError, match="names a folder twice"):
            open_dataset([drawn, same])


def test_datasets_whose_log_mels_have_different_names_are_not_mixed(tmp_path: Path) -> None:
    sets = [
        open_dataset(draw_dataset(tmp_path / name, 2, mel=mel, num_frames=1, flac=False))
        for name, mel in (("a", ("paper",)), ("b", ("released", "paper")))
    ]
    with pytest.raises(ConfigError, match="Prepare them with the same order of `--mel`"):
        unite(sets)


# What is wrong with a prepared dataset.


def test_a_folder_that_is_none_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dataset\.json, so not a prepared dataset. Name its shards"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        ("format", ManifestError, "format version 99"),
        ("description", ManifestError, r"dataset\.json: not valid JSON"),
        ("list", ManifestError, "a JSON list, expected an object"),
        ("manifest", ManifestError, r"train\.parquet"),
        ("marker_gone", ManifestError, "6 samples in shard 00001, its marker says None"),
        ("marker_counts", ManifestError, "6 samples in shard 00001, its marker says 5"),
        ("marker_empty", ShardError, r"00001\.tar: not a marker"),
        ("labels", ManifestError, r"labels \['rain'\] are not among the dataset's 2 classes"),
        ("config", ManifestError, r"dataset\.json: .* config\.mel is"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(
    tmp_path: Path, drawn: Path, damage: str, kind: type[Exception], said: str
) -> None:
    root = tmp_path / "set"
    for path in drawn.rglob("*"):
        if path.is_file():
            (root / path.relative_to(drawn)).parent.mkdir(parents=True, exist_ok=True)
            (root / path.relative_to(drawn)).write_bytes(path.read_bytes())
    layout = Layout(root)
    description = json.loads(layout.dataset_json.read_text())
    marker = root / "train/00001_stats.json"
    stats = json.loads(marker.read_text())
    if damage == "format":
        layout.dataset_json.write_text(json.dumps(description | {"format_version": 99}))
    elif damage == "description":
        layout.dataset_json.write_text("{")
    elif damage == "list":
        layout.dataset_json.write_text("[]")
    elif damage == "manifest":
        layout.manifest("train").write_bytes(b"PAR1 not at all")
    elif damage == "marker_gone":
        marker.unlink()
    elif damage == "marker_counts":
        marker.write_text(json.dumps(stats | {"successes": 5}))
    elif damage == "marker_empty":
        marker.write_text(json.dumps({"successes": 6}))
    elif damage == "labels":
        layout.dataset_json.write_text(json.dumps(description | {"labels": list(CLASSES[:2])}))
    else:
        layout.dataset_json.write_text(json.dumps(description | {"config": {"mel": 3}}))
    with pytest.raises(kind, match=said):
        open_dataset(root)


def test_another_shards_manifest_is_refused(tmp_path: Path, drawn: Path) -> None:
    small = draw_dataset(tmp_path / "set", 2, num_frames=1, flac=False)
    (small / "train/00000.parquet").write_bytes((drawn / "train/00000.parquet").read_bytes())
    with pytest.raises(ManifestError, match=r"00000\.tar: by the manifest a member ends at byte"):
        open_dataset(small / "train/00000.tar")
    (small / "train/00000.parquet").unlink()
    with pytest.raises(ShardError, match=r"00000\.parquet: missing, though the shard's marker is there"):
        open_dataset(small / "train/00000.tar")


# Tars of others.


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def foreign_sample(number: int, key: str) -> dict[str, bytes]:
    mel = log_mel(waveform_of(number, 4.0), VIEW.mel)
    return {
        f"{key}.JPG": encode_jpeg(flat_frame(number, 0)),
        f"{key}.spec.npy": npy(mel),
        f"{key}.wav.flac": encode_flac(waveform_of(number, 4.0)),
        f"{key}.cls": b"%d\n" % (number % 2),
        f"{key}.json": json.dumps({"label": ["rain", "dog"][: 1 + number % 2], "n": number}).encode(),
    }


MEMBERS = MemberMap(image="png;jpg", log_mel="spec.npy", waveform="wav.flac", label="cls")


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    for shard in range(2):
        samples = [foreign_sample(number, f"{number:03d}") for number in range(3 * shard, 3 * shard + 3)]
        write_tar(tmp_path / f"wds/{shard}.tar", {name: data for sample in samples for name, data in sample.items()})
    return f"{tmp_path}/wds/{{0..1}}.tar"


def test_a_foreign_tar_is_read_through_a_mapping(foreign: str, cache: CacheConfig) -> None:
    dataset = open_dataset(foreign, members=MEMBERS, cache=cache)
    assert dataset.keys.to_pylist() == [f"{n:03d}" for n in range(6)]
    batch = next(iter(Loader(dataset, EvalView(image_size=8, waveform=True), CONFIG)))
    assert batch.label_names()[:6] == [[str(n % 2)] for n in range(6)]
    for n in range(6):
        assert abs(batch.images[n, 0].float().mean() - 8 * n) < 4
        mel = log_mel(waveform_of(n, 4.0), VIEW.mel).astype(np.float16)
        start = round(float(batch.window_start_s[n]) * 16_000 / 240)
        assert np.array_equal(batch.log_mel[n], mel[:, start : start + 192])
    assert batch.frame_time_s.isnan().all()
    assert sorted(loaded(dataset)) == sorted(loaded(open_dataset(foreign, members=MEMBERS, cache=cache)))


def test_labels_of_foreign_tars_come_from_any_member(foreign: str, cache: CacheConfig) -> None:
    members = replace(MEMBERS, label="json:label")
    dataset = open_dataset(foreign, members=members, cache=cache)
    assert dataset.classes == ("dog", "rain")
    assert [sorted(names) for _, _, names in loaded(dataset)] == [
        ["rain"] if n % 2 == 0 else ["dog", "rain"] for n in range(6)
    ]
    assert open_dataset(foreign, members=replace(MEMBERS, label="json:n"), cache=cache).classes == tuple("012345")
    assert open_dataset(foreign, members=replace(MEMBERS, label=""), cache=cache).classes == ()
    for label in ("json:nothing", "spec.npy"):
        with pytest.raises(ShardError, match=r"0\.tar: .* gives no label"):
            open_dataset(foreign, members=replace(MEMBERS, label=label), cache=cache)


def test_a_foreign_tar_is_walked_once_and_again_when_it_changes(
    foreign: str, tmp_path: Path, cache: CacheConfig
) -> None:
    dataset = open_dataset(foreign, members=MEMBERS, cache=cache)
    kept = sorted(cache.root.glob("*.index.parquet"))
    assert len(kept) == 2
    table = pq.read_table(kept[0])
    keys = table.column("key").to_pylist()
    pq.write_table(table.set_column(0, "key", [[f"kept-{key}" for key in keys]]).cast(table.schema), kept[0])
    again = open_dataset(foreign, members=MEMBERS, cache=cache)
    assert set(again.keys.to_pylist()) - set(dataset.keys.to_pylist()) == {f"kept-{key}" for key in keys}
    kept[0].write_bytes(b"damaged")
    assert open_dataset(foreign, members=MEMBERS, cache=cache).keys == dataset.keys
    write_tar(tmp_path / "wds/0.tar", foreign_sample(9, "new"))
    assert open_dataset(foreign, members=MEMBERS, cache=cache).keys.to_pylist() == ["new", "003", "004", "005"]


def test_a_foreign_tar_is_read_where_no_index_can_be_kept(foreign: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    dataset = open_dataset(foreign, members=MEMBERS, cache=CacheConfig(root=tmp_path / "file/cache"))
    assert len(dataset) == 6


def test_a_foreign_tar_from_afar_is_fetched_once(foreign: str, tmp_path: Path, cache: CacheConfig) -> None:
    local = loaded(open_dataset(foreign, members=MEMBERS, cache=cache))
    with serving(tmp_path / "wds") as server:
        for tells in (True, False):
            server.tells_size = tells
            url = f"{server.url}/{{0..1}}.tar?again={tells}"
            assert loaded(open_dataset(url, members=MEMBERS, cache=cache), cache) == local
        assert server.count("0.tar?again=True") == 1


def test_a_command_gives_a_tar_when_it_is_allowed(foreign: str, tmp_path: Path, cache: CacheConfig) -> None:
    local = loaded(open_dataset(f"{tmp_path}/wds/0.tar", members=MEMBERS, cache=cache))
    url = f"pipe:cat '{tmp_path}/wds/0.tar'"
    assert loaded(open_dataset(url, members=MEMBERS, cache=cache, allow_pipe=True), cache) == local
    for command, said in [
        ("pipe:false", "ended with status 1"),
        ("pipe:no-such-command", "cannot be run"),
        ("pipe:", "cannot be run"),
        ("pipe:cat 'x", "cannot be run"),
        (f"pipe:cat {tmp_path}/wds/0.tar > {tmp_path}/out", "ended with status 1"),
        ("pipe:echo not a tar", "not a whole, uncompressed tar"),
    ]:
        with pytest.raises(ShardError, match=said):
            open_dataset(command, members=MEMBERS, cache=cache, allow_pipe=True)
    assert not (tmp_path / "out").exists()


def test_an_error_for_unmapped_members_lists_the_members(foreign: str, cache: CacheConfig) -> None:
    with pytest.raises(ConfigError, match=r"no member matches image='frame\*\.jpg'; the samples have cls, jpg, json"):
        open_dataset(foreign, cache=cache)
    with pytest.raises(ConfigError, match="needs an image"):
        MemberMap(image="")
    with pytest.raises(ConfigError, match="the shards have none, and no audio"):
        Loader(open_dataset(foreign, members=MemberMap(image="jpg"), cache=cache), VIEW, CONFIG)


def test_frames_of_foreign_samples_come_in_the_order_of_their_numbers(tmp_path: Path, cache: CacheConfig) -> None:
    members = {f"a.f{n}.jpg": encode_jpeg(flat_frame(1, n % 8)) for n in (10, 2, 1, 0)}
    path = write_tar(tmp_path / "a.tar", members | {"a.jpg": b"", "a.spec.npy": foreign_sample(1, "a")["a.spec.npy"]})
    dataset = open_dataset(path, members=replace(MEMBERS, image="f*.jpg", label=""), cache=cache)
    assert dataset.frame_names == ("f0.jpg", "f1.jpg", "f2.jpg", "f10.jpg")
    assert MemberMap(image="png;f1*.jpg;*.jpg").frame_names(["f2.jpg", "f10.jpg", "f1.jpg"]) == ["f1.jpg", "f10.jpg"]


def test_names_that_are_no_samples_are_passed_over(tmp_path: Path, cache: CacheConfig) -> None:
    sample = foreign_sample(1, "some/folder/x")
    extra = {
        "README": b"",
        "__meta__/info.json": b"",
        "._x.jpg": b"",
        "folder/.hidden": b"",
        "__x__": b"",
        "some/__MACOSX/x.jpg": b"",
    }
    path = write_tar(tmp_path / "a.tar", extra | sample)
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("../../etc/y.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert open_dataset(path, members=MEMBERS, cache=cache).keys.to_pylist() == ["some/folder/x"]


def test_keys_that_begin_with_underscores_are_samples(tmp_path: Path, cache: CacheConfig) -> None:
    keys = ["--0PQM4-hqg", "__56QUhyDQM", "___JKLMNOP__", "folder/__a", "-ABCDEFGHIJ"]
    members = {name: content for key in keys for name, content in foreign_sample(1, key).items()}
    dataset = open_dataset(write_tar(tmp_path / "a.tar", members), members=MEMBERS, cache=cache)
    assert dataset.keys.to_pylist() == keys


def test_two_samples_of_one_key_are_refused(tmp_path: Path, cache: CacheConfig) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in [*foreign_sample(1, "s0").items(), *foreign_sample(2, "s0").items()]:
            info = tarfile.TarInfo(name.upper() if "jpg" in name else name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ShardError, match=r"sample 's0' has the member '.*' twice"):
        open_dataset(path, members=MEMBERS, cache=cache)


HOSTILE = [
    "../../../etc/passwd",
    "/etc/passwd",
    "a\nb\x1b[31m",
    "$(touch x)",
    "è\u202e",
    "x" * 300,
    "con$\\frac{1}{2}$",
]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_name_is_only_a_name(tmp_path: Path, cache: CacheConfig, key: str) -> None:
    path = write_tar(tmp_path / "a.tar", foreign_sample(1, key))
    before = {p for p in tmp_path.rglob("*") if cache.root not in p.parents}
    dataset = open_dataset(path, members=MEMBERS, cache=cache)
    assert [found for found, _, _ in loaded(dataset)] == [key]
    assert {p for p in tmp_path.rglob("*") if cache.root not in [p, *p.parents]} == before


def test_a_name_that_is_no_text_is_written_as_one(tmp_path: Path, cache: CacheConfig) -> None:
    path = write_tar(tmp_path / "a.tar", foreign_sample(1, "a\udcffb"), tarfile.USTAR_FORMAT)
    assert open_dataset(path, members=MEMBERS, cache=cache).keys.to_pylist() == ["a\\xffb"]


def test_a_header_that_leads_back_does_not_lead_in_circles(tmp_path: Path, cache: CacheConfig) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 100, "b.jpg": b"y"}, tarfile.GNU_FORMAT)
    content = bytearray(path.read_bytes())
    content[124:136] = (-1024 + (256**12)).to_bytes(12, "big")
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"a\.tar: .*(damaged header|not a whole)"):
        open_dataset(path, members=MEMBERS, cache=cache)


def test_foreign_tars_that_are_damaged_name_themselves(tmp_path: Path, cache: CacheConfig) -> None:
    good = write_tar(tmp_path / "good.tar", {**foreign_sample(0, "a"), **foreign_sample(1, "b")}).read_bytes()
    apart = {**foreign_sample(0, "a"), **foreign_sample(1, "b"), "a.txt": b"late"}
    write_tar(tmp_path / "apart.tar", apart)
    write_tar(tmp_path / "packed.tar", foreign_sample(0, "a"), mode="w:gz")
    write_tar(tmp_path / "packed.tar.xz", foreign_sample(0, "a"), mode="w:xz")
    (tmp_path / "cut.tar").write_bytes(good[:-12_000])
    (tmp_path / "half.tar").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("<html>404</html>" * 100)
    for name, kind, said in [
        ("apart", ShardError, "members of 'a' are not adjacent"),
        ("packed", ShardError, "not a whole, uncompressed tar"),
        ("packed.tar.xz", ConfigError, "Unpack it to .tar first"),
        ("cut", ShardError, "cut"),
        ("half", ShardError, "cut|not a whole"),
        ("empty", ShardError, "not a whole"),
        ("text", ShardError, "not a whole"),
    ]:
        path = tmp_path / (name if "." in name else f"{name}.tar")
        with pytest.raises(kind, match=said) as error:
            open_dataset([tmp_path / "good.tar", path], members=MEMBERS, cache=cache)
        assert path.name in str(error.value)
