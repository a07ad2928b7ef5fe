"""How long subnets are trained."""

from st.core.job import Job
from st.networks.structure import Structure


def scaled_epochs(job: Job, structure: Structure) -> int:
    """The epochs of a subnet's training.

    By computation (Scratch-B, Liu et al. 2019): so many more as it needs fewer MACs than its
    supernet, int(epochs x full / pruned), with a stated limit to the factor.
    """
    epochs = job["training"]["epochs"]
    if job["epoch_rule"] == "same":
        return epochs
    scaled = epochs * structure.full.cost()[1] / structure.cost()[1]
    if job["max_epoch_factor"]:
        scaled = min(scaled, epochs * job["max_epoch_factor"])
    return int(round(scaled, 6))  # 2.3 times 100 is 230, though 100 * 2.3 is 229.99999999999997
