"""The sentence encoder as a torch module that answers, and sentences to ask it: no further library is needed.

Names are those of the file, so that a diagnosis of the file and one of the module have the same layers. Sentences come
from the descriptions that scikit-learn ships with its data sets; words are cut by the vocabulary beside the weights.
"""

import re

import torch
from torch import nn


class _Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        self.heads = heads

    def forward(self, x, mask):
        b, T, width = x.shape
        q, k, v = (self.self[name](x).view(b, T, self.heads, -1).transpose(1, 2) for name in ("query", "key", "value"))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        mixed = mixed.transpose(1, 2).reshape(b, T, width)
        return self.output["LayerNorm"](x + self.output["dense"](mixed))


class _Block(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x, mask):
        x = self.attention(x, mask)
        inner = nn.functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))


class SentenceModel(nn.Module):
    """Six transformer blocks of width 384; the answer is the mean of the tokens' vectors, of length one."""

    def __init__(self, width=384, heads=12, inner=1536, blocks=6, words=30522, positions=512):
        super().__init__()
        tables = {"word_embeddings": words, "position_embeddings": positions, "token_type_embeddings": 2}
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, width) for name, size in tables.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(width, eps=1e-12)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Block(width, heads, inner) for _ in range(blocks))})

    def forward(self, tokens):
        """Return unit vectors (b, width) of token numbers (b, T); 0 is padding."""
        mask = tokens != 0
        x = self.embeddings["word_embeddings"](tokens) + self.embeddings["token_type_embeddings"].weight[0]
        x = x + self.embeddings["position_embeddings"].weight[: tokens.shape[1]]
        x = self.embeddings["LayerNorm"](x)
        for block in self.encoder["layer"]:
            x = block(x, mask)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)


def sentence_model():
    """Return the encoder with the weights of sciml.datasets.sentence_encoder."""
    from sciml.datasets import sentence_encoder
    from sciml.stats.spectra import open_weights

    model = SentenceModel()
    with open_weights(sentence_encoder()) as source:
        weights = {key: stored.read() for key, stored in source.tensors.items()}
    missing, _ = model.load_state_dict(weights, strict=False)
    if missing:
        raise ValueError(f"the file lacks {missing}")
    return model.eval().requires_grad_(False)


def sentences():
    """Return English sentences of 8 to 30 words, from the descriptions of scikit-learn's data sets."""
    from sklearn import datasets

    loads = (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes)
    text = " ".join(load().DESCR for load in (*loads, datasets.load_digits, datasets.load_linnerud))
    text = re.sub(r"\s+", " ", re.sub(r"[^A-Za-z0-9 .,;:()'-]", " ", text))
    parts = [part.strip() for part in re.split(r"(?<=[.;:]) ", text)]
    return sorted({part for part in parts if 8 <= len(part.split()) <= 30})


def tokens(texts):
    """Return token numbers, shape (b, T), padded by 0."""
    from sciml.datasets import sentence_encoder

    words = (sentence_encoder().parent / "vocab.txt").read_text(encoding="utf-8").splitlines()
    number = {word: i for i, word in enumerate(words)}
    rows = []
    for text in texts:
        row = [number["[CLS]"]]
        for word in re.findall(r"[a-z0-9]+|[^a-z0-9 ]", text.lower()):
            row += _pieces(word, number)
        rows.append(torch.tensor([*row, number["[SEP]"]]))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _pieces(word, number):
    """Return the longest pieces of the vocabulary that make up a word, from the left."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in number), None)
        if end is None:
            return [number["[UNK]"]]
        found.append(number[prefix + word[start:end]])
        start = end
    return found
