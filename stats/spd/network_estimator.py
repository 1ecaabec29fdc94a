r"""SPDNet as a classifier of scikit-learn: trials or matrices in, labels and probabilities out.

Cost      see `training`; a prediction is one pass.
Pitfalls  matrices are divided by the mean trace of the training data, so that the unit changes nothing. With domains, a
          new domain needs unlabelled data of its own first: :meth:`SPDNetClassifier.adapt`.
References  Z. Huang et al., A Riemannian network for SPD matrix learning, AAAI 2017, arXiv 1608.04233. R. Kobler et
            al., SPD domain-specific batch normalization, NeurIPS 2022, arXiv 2206.01323.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.network import SPDNet
from sciml.stats.spd.training import fit_spdnet
from sciml.stats.spd.trials import as_trials

__all__ = ["SPDNetClassifier"]

_FORMAT = 1


class SPDNetClassifier(ClassifierMixin, BaseEstimator):
    r"""Classify trials or SPD matrices by an SPDNet.

    Parameters
    ----------
    dims : tuple of int or None
        Sizes of the matrices after each BiMap; None (the default) is one block to two thirds of the input's size.
    metric : {"logeuclid", "bw", "gbw", "airm", "logchol"}
        Geometry of the batch norms; log-Euclidean by default.
    batchnorm : {"spd", "literal"} or None
        See :class:`~sciml.stats.spd.network.SPDNet`; "spd" by default.
    center : {"running", "batch", "momentum"}
        What batch norms centre at in training; the running mean by default.
    theta : float
        Power of the batch norms; 1 by default.
    descriptor : Descriptor or None
        What makes matrices of series; None (the default) is the covariance, ``Descriptor()``. Not used for matrices.
    n_epochs, batch_size, lr, weight_decay, validation, patience
        See :func:`~sciml.stats.spd.training.fit_spdnet`.
    random_state : None, int or numpy.random.Generator
        Start of the parameters, split and order of batches; the same int gives the same network.

    Attributes
    ----------
    classes_ : ndarray
        Labels in sorted order.
    domains_ : ndarray or None
        Domains in the order in which the network numbers them.
    network_ : SPDNet
        The trained network, in evaluation mode.
    history_ : TrainingHistory
        Losses by epoch.

    References
    ----------
    Z. Huang et al., arXiv 1608.04233; R. Kobler et al., arXiv 2206.01323.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["calm", "loud"], 30)
    >>> X = rng.normal(size=(60, 3, 80)) * np.where(y == "loud", 3.0, 1.0)[:, None, None]
    >>> X[:, 0] /= 10
    >>> clf = SPDNetClassifier(n_epochs=20, random_state=0).fit(X, y)
    >>> clf.score(X, y)
    1.0
    """

    def __init__(
        self,
        dims=None,
        metric="logeuclid",
        batchnorm="spd",
        center="running",
        theta=1.0,
        descriptor=None,
        n_epochs=100,
        batch_size=50,
        lr=5e-3,
        weight_decay=1e-4,
        validation=0.2,
        patience=20,
        random_state=None,
    ):
        self.dims = dims
        self.metric = metric
        self.batchnorm = batchnorm
        self.center = center
        self.theta = theta
        self.descriptor = descriptor
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.random_state = random_state

    def fit(self, X, y, groups=None, domains=None):
        """Train the network.

        Parameters
        ----------
        X : array, shape (N, n, T), (N, d, d) or (N, bands, d, d), list of arrays, xarray.DataArray or Trials
            Series, see `as_trials`; or SPD matrices.
        y : array_like, shape (N,)
            Labels of at least two classes.
        groups : array_like, shape (N,), or None
            Samples that the validation split may not divide.
        domains : array_like, shape (N,), or None
            Domain (subject, session) of each sample, with statistics of its own; None (the default): one set.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there are fewer than two classes, lengths differ, or a parameter breaks its rule.
        """
        y = np.asarray(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInputError(
                f"y must hold at least two classes; got {self.classes_.tolist()}. Pass data of several classes."
            )
        matrices = self._describe(X, labels, fit=True)
        for name, values in (("y", y), ("groups", groups), ("domains", domains)):
            if values is not None and len(values) != len(matrices):
                raise InvalidInputError(f"{name} must be as long as X, {len(matrices)}; got {len(values)}.")
        self.domains_, index = None, None
        if domains is not None:
            self.domains_, index = np.unique(np.asarray(domains), return_inverse=True)
            index = torch.from_numpy(index.astype(np.int64))
        n = matrices.shape[-1]
        # A relative factor; the mean trace of the training data carries the unit away.
        self.scale_ = np.trace(matrices, axis1=-2, axis2=-1).mean(0) / n
        self.n_features_in_ = n
        self.dims_ = (n, *(self.dims if self.dims is not None else (max(1, -(-2 * n // 3)),)))
        self.channels_ = matrices.shape[1]
        rng = generator(self.random_state)
        self.network_ = self._network(rng)
        self.history_ = fit_spdnet(
            self.network_,
            self._scaled(matrices),
            torch.from_numpy(labels.astype(np.int64)),
            domains=index,
            groups=groups,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            validation=self.validation,
            patience=self.patience,
            random_state=rng,
        )
        return self

    def predict_proba(self, X, domains=None):
        """Return class probabilities.

        Parameters
        ----------
        X : as in `fit`
            Trials or matrices.
        domains : array_like, shape (N,), one label, or None
            Domains, if the network was trained with them.

        Returns
        -------
        ndarray, shape (N, n_classes)
            Rows sum to 1; columns in the order of `classes_`.

        Raises
        ------
        InvalidInputError
            If a domain has no statistics yet, or the trials do not fit.
        """
        check_is_fitted(self, "network_")
        matrices = self._describe(X)
        index = self._domain_index(domains, len(matrices))
        with torch.no_grad():
            return torch.softmax(self.network_.eval()(self._scaled(matrices), index), -1).numpy()

    def predict(self, X, domains=None):
        """Return labels.

        Parameters
        ----------
        X : as in `fit`
            Trials or matrices.
        domains : array_like, shape (N,), one label, or None
            Domains, if the network was trained with them.

        Returns
        -------
        ndarray, shape (N,)
            Of `classes_`.
        """
        return self.classes_[self.predict_proba(X, domains).argmax(1)]

    def adapt(self, X, domain):
        """Compute the statistics of one domain, new or known, from unlabelled data.

        Parameters
        ----------
        X : as in `fit`
            At least two trials or matrices of the domain.
        domain : label
            Its name.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If the network was trained without domains.
        """
        check_is_fitted(self, "network_")
        if self.domains_ is None:
            raise InvalidInputError(
                f"domain must be one of a network trained with domains; got {domain!r}. Pass domains= to fit."
            )
        matrices = self._describe(X)
        if domain not in self.domains_.tolist():
            for norm in self.network_.norms:
                norm.add_domains()
            self.network_.n_domains += 1
            self.domains_ = np.append(self.domains_, np.asarray([domain], dtype=np.asarray(domain).dtype))
        place = self.domains_.tolist().index(domain)
        self.network_.adapt(self._scaled(matrices), place)
        return self

    # ------------------------------------------------------------ saving

    def save(self, path):
        """Write settings, descriptor and all parameters and statistics to one file, without pickle.

        Parameters
        ----------
        path : str or path
            Where to; a name ending in .npz.

        Raises
        ------
        InvalidInputError
            If classes or domains are neither numbers nor texts.
        """
        check_is_fitted(self, "network_")
        names = {"classes": self.classes_}
        if self.domains_ is not None:
            names["domains"] = self.domains_
        for name, values in names.items():
            if values.dtype.kind not in "biufU":
                raise InvalidInputError(f"{name} must be numbers or texts to be saved; got dtype {values.dtype}.")
        settings = self.get_params(deep=False) | {"descriptor": None, "random_state": None}
        head = {
            "format": _FORMAT,
            "class": type(self).__name__,
            "settings": settings,
            "dims": list(self.dims_),
            "channels": self.channels_,
            "n_domains": self.network_.n_domains,
            "descriptor": None if self.descriptor_ is None else self.descriptor_.settings(),
        }
        arrays = {f"state/{key}": value.numpy() for key, value in self.network_.state_dict().items()}
        if self.descriptor_ is not None:
            plain = {key: value for key, value in self.state_.items() if not isinstance(value, np.ndarray)}
            arrays |= {f"fitted/{key}": value for key, value in self.state_.items() if isinstance(value, np.ndarray)}
            head["fitted"] = plain
        arrays |= {f"name/{name}": values for name, values in names.items()} | {"scale": np.asarray(self.scale_)}
        with open(path, "wb") as file:
            np.savez(file, head=np.array(json.dumps(head)), **arrays)

    @classmethod
    def load(cls, path):
        """Read a classifier that :meth:`save` wrote.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        SPDNetClassifier
            With predictions equal to the last bit.

        Raises
        ------
        InvalidInputError
            If the file is not one.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        try:
            head = json.loads(str(arrays.pop("head")))
            right = head["class"] == cls.__name__ and head["format"] == _FORMAT
        except (KeyError, json.JSONDecodeError):
            right = False
        if not right:
            raise InvalidInputError(f"path must be a file written by {cls.__name__}.save; got {str(path)!r}.")

        def part(name):
            return {key[len(name) :]: value for key, value in arrays.items() if key.startswith(name)}

        settings = head["settings"] | {"dims": None if head["settings"]["dims"] is None else tuple(head["dims"][1:])}
        self = cls(**settings)
        self.dims_, self.channels_, self.n_features_in_ = tuple(head["dims"]), head["channels"], head["dims"][0]
        self.scale_ = arrays["scale"]
        self.classes_, self.domains_ = arrays["name/classes"], arrays.get("name/domains")
        self.descriptor_ = None
        if head["descriptor"] is not None:
            # JSON turns the pairs of the pass bands into lists.
            bands = head["descriptor"]["bands"]
            pairs = None if bands is None else tuple(tuple(band) for band in bands)
            self.descriptor_ = Descriptor(**(head["descriptor"] | {"bands": pairs}))
            self.descriptor = self.descriptor_
            self.state_ = head["fitted"] | part("fitted/")
        self.network_ = self._network(generator(0), head["n_domains"])
        state = {key: torch.from_numpy(np.array(value)) for key, value in part("state/").items()}
        self.network_.load_state_dict(state)
        self.network_.eval()
        return self

    # ------------------------------------------------------------ the door

    def _network(self, rng, n_domains=None):
        if n_domains is None and self.domains_ is not None:
            n_domains = len(self.domains_)
        return SPDNet(
            self.dims_,
            len(self.classes_),
            metric=self.metric,
            batchnorm=self.batchnorm,
            center=self.center,
            theta=self.theta,
            n_domains=n_domains,
            channels=self.channels_,
            rng=rng,
        )

    def _describe(self, X, y=None, fit=False):
        """Return float64 matrices (N, channels, d, d)."""
        stacked = getattr(X, "ndim", None) == 4
        if stacked and not fit and self.descriptor_ is not None:
            raise InvalidInputError(f"X must be series, as in fit; got shape {np.shape(X)}. Pass (N, n, T).")
        if stacked:
            X = np.asarray(X, dtype=np.float64)
            checked = [as_trials(X[:, k], kind="matrices").matrices for k in range(X.shape[1])]
            matrices = np.stack([np.asarray(part) for part in checked], 1)
            descriptor = None
        else:
            trials = as_trials(X) if fit else as_trials(X, kind="auto" if self.descriptor_ is None else "series")
            descriptor = None if trials.kind == "matrices" else (self.descriptor or Descriptor())
            if fit and descriptor is not None:
                self.state_ = descriptor.fit(trials, y)
            if descriptor is None:
                matrices = np.asarray(trials.matrices)
            else:
                matrices = (descriptor if fit else self.descriptor_).matrices(trials, self.state_)
            matrices = matrices[:, None] if matrices.ndim == 3 else matrices
        if fit:
            self.descriptor_ = descriptor
        elif matrices.shape[1:] != (self.channels_, self.n_features_in_, self.n_features_in_):
            raise InvalidInputError(
                f"X must give matrices of size {self.n_features_in_}, as in fit; got shape {matrices.shape}."
            )
        return matrices

    def _scaled(self, matrices):
        return torch.from_numpy(matrices / self.scale_[:, None, None])

    def _domain_index(self, domains, n):
        if self.domains_ is None:
            if domains is not None:
                raise InvalidInputError("domains must be None for a network trained without. Pass domains= to fit.")
            return None
        if domains is None:
            raise InvalidInputError("domains must be given, as in fit; got None. Pass one label or one a trial.")
        domains = np.broadcast_to(np.asarray(domains), (n,))
        known = {name: place for place, name in enumerate(self.domains_.tolist())}
        unseen = [name for name in dict.fromkeys(domains.tolist()) if name not in known]
        if unseen:
            raise InvalidInputError(
                f"domains must be known; {unseen[0]!r} has no statistics. Call adapt(X, domain={unseen[0]!r}) with "
                "unlabelled trials of it first."
            )
        return torch.tensor([known[name] for name in domains.tolist()])
