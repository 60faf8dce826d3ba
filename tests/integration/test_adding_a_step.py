"""docs/adding-a-step.md, done from scratch: its file is saved, its commands are given, with a tiny CLIP model."""

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from avdata.shards import parse_npy, walk_samples
from tests.drawn import bursts, draw_media

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-step.md"


def save_tiny_clip(folder: Path) -> None:
    """A CLIP model with random weights, whose texts are read letter by letter."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    vocabulary = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(letters), "eos_token_id": len(letters) + 1, "pad_token_id": len(letters) + 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 32},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


@pytest.mark.slow
def test_the_page_as_it_stands(tmp_path: Path) -> None:
    page = PAGE.read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_clip.py").write_text(source)
    save_tiny_clip(tmp_path / "models" / "clip")
    (tmp_path / "my_videos").mkdir()
    for number in range(2):
        draw_media(tmp_path / "my_videos" / f"v{number}.mp4", num_frames=80, sound=bursts(3.2, 44_100)[None])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "step clip_score, version 1 (model=models/clip, text=a dog barks, min_score=-1.0)" in " ".join(
        done.stdout.split()
    )
    rows = pq.read_table(tmp_path / "data" / "mine" / "manifest" / "train.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert all(-1 <= row["clip_score"] <= 1 for row in rows)
    tar = tmp_path / "data" / "mine" / "train" / "00000.tar"
    for _, _, members in walk_samples(tar):
        place = {member.name: member for member in members}["clip.npy"]
        vectors = parse_npy(tar.read_bytes()[place.offset :][: place.size], "clip.npy")
        assert (vectors.shape, vectors.dtype) == ((10, 8), np.float16)
