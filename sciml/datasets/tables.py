"""Small tables of measurements whose rows belong to known classes.

Four come with scikit-learn; the penguins come with this package, in a file of 9 kB.

Cost      milliseconds; nothing is fetched.
Pitfalls  a class is what somebody wrote down, not a cluster: two classes of iris overlap, and a digit is written in
          more than one way. Units differ between columns of wine, breast cancer and penguins, so that distances
          between raw rows mean little there.
References  R. A. Fisher, The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, 1936, 179
          (iris). M. Forina et al., PARVUS, 1988 (wine). E. Alpaydin, C. Kaynak, Optical recognition of handwritten
          digits, UCI repository, 1998. W. N. Street, W. H. Wolberg, O. L. Mangasarian, Nuclear feature extraction for
          breast tumor diagnosis, 1993. K. B. Gorman, T. D. Williams, W. R. Fraser, Ecological sexual dimorphism and
          environmental variability within a community of Antarctic penguins (genus Pygoscelis), PLoS ONE 9, 2014,
          e90081; A. M. Horst, A. P. Hill, K. B. Gorman, palmerpenguins: Palmer Archipelago (Antarctica) penguin data,
          2020, doi 10.5281/zenodo.3960218, under CC0 1.0 (penguins).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciml.validation import check_option

__all__ = ["LabelledTable", "labelled_table"]


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """Measurements and the classes of their rows.

    Parameters
    ----------
    X : ndarray, shape (n, p), float64
        One row an individual, one column a measurement, in `units`.
    labels : ndarray, shape (n,), int64
        Classes from 0.
    feature_names : tuple of str, length p
        Names of the columns.
    class_names : tuple of str
        Names of the classes; ``class_names[labels[i]]`` is that of row i.
    units : tuple of str, length p
        Units of the columns; "not stated" where the source says none.

    Examples
    --------
    >>> from sciml.datasets import labelled_table
    >>> labelled_table("penguins").class_names
    ('Adelie', 'Chinstrap', 'Gentoo')
    """

    X: np.ndarray
    labels: np.ndarray
    feature_names: tuple
    class_names: tuple
    units: tuple


def labelled_table(name):
    """Return one of five small tables with known classes.

    Parameters
    ----------
    name : {"iris", "wine", "digits", "breast_cancer", "penguins"}
        iris: 150 flowers of 3 species, 4 lengths. wine: 178 wines of 3 growers, 13 measurements. digits: 1797 scanned
        digits, 64 counts of inked pixels, from 0 to 16. breast_cancer: 569 tumours, malignant or benign, 30 shapes of
        cell nuclei. penguins: 342 penguins of 3 species, 4 measurements; of the 344 birds in the source the 2 that
        were not measured are left out.

    Returns
    -------
    LabelledTable
        With X, labels, feature_names, class_names and units.

    Raises
    ------
    InvalidInputError
        If the name is unknown.
    ImportError
        If scikit-learn is not installed, but for penguins.

    References
    ----------
    Those of the module; the penguins are those of K. B. Gorman, T. D. Williams, W. R. Fraser, PLoS ONE 9, 2014, e90081.

    Examples
    --------
    >>> from sciml.datasets import labelled_table
    >>> table = labelled_table("penguins")
    >>> table.X.shape, table.feature_names[0], table.units[0], table.X[0, 0]
    ((342, 4), 'bill length', 'mm', np.float64(39.1))
    """
    check_option("name", name, ("iris", "wine", "digits", "breast_cancer", "penguins"))
    return _penguins() if name == "penguins" else _of_scikit_learn(name)


def _penguins():
    with (Path(__file__).parent / "penguins.csv").open(newline="", encoding="utf-8") as file:
        (*columns, _), *rows = csv.reader(file)
    class_names, labels = np.unique([row[-1] for row in rows], return_inverse=True)
    words = [column.split("_") for column in columns]
    return LabelledTable(
        X=np.array([row[:-1] for row in rows], dtype=np.float64),
        labels=labels.astype(np.int64),
        feature_names=tuple(" ".join(word[:-1]) for word in words),
        class_names=tuple(class_names.tolist()),
        units=tuple(word[-1] for word in words),
    )


def _of_scikit_learn(name):
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"labelled_table({name!r}) needs scikit-learn, which is not installed. Run pip install scikit-learn, or "
            "pass name='penguins'."
        ) from error
    found = getattr(datasets, f"load_{name}")()
    units = {"iris": "cm", "digits": "inked pixels of 16"}.get(name, "not stated")
    return LabelledTable(
        X=np.array(found.data, dtype=np.float64),
        labels=np.array(found.target, dtype=np.int64),
        feature_names=tuple(feature.replace(" (cm)", "").replace("_", " ") for feature in found.feature_names),
        class_names=tuple(str(word) for word in found.target_names),
        units=(units,) * found.data.shape[1],
    )
