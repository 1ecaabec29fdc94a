"""Data with a known truth, made or shipped with other packages; nothing is fetched from a network."""

from sciml.datasets.encoder import sentence_encoder as sentence_encoder
from sciml.datasets.images import noisy as noisy
from sciml.datasets.images import photographs as photographs
from sciml.datasets.mixtures import gaussian_clusters as gaussian_clusters
from sciml.datasets.sensors import gain_pattern as gain_pattern
from sciml.datasets.sensors import measured_snapshots as measured_snapshots
from sciml.datasets.series import LabelledTrials as LabelledTrials
from sciml.datasets.series import series_classification as series_classification
from sciml.datasets.tables import LabelledTable as LabelledTable
from sciml.datasets.tables import labelled_table as labelled_table
from sciml.datasets.trial_simulation import simulated_spd as simulated_spd
from sciml.datasets.trial_simulation import simulated_trials as simulated_trials
from sciml.datasets.watch import watch_windows as watch_windows
