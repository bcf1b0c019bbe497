"""Strategies to compare, one file each; a new one is that file and a line here."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping

from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from simulations.mechanisms import Mechanism
from simulations.protection import Protection
from simulations.strategies.base import OwnPrivacy, Strategy, Task
from simulations.strategies.centralised import Centralised
from simulations.strategies.classifiers import Perceptron
from simulations.strategies.dp_em import DpEm
from simulations.strategies.dp_em_mixture import DpEmMixture
from simulations.strategies.fedavg import Adam, FedAvg
from simulations.strategies.fedrep import FedRep
from simulations.strategies.ideal_point import IdealPoint
from simulations.strategies.item_dp import ItemDp
from simulations.strategies.local_dp import LocalDp
from simulations.strategies.local_only import LocalOnly
from simulations.strategies.policy_gradient import PolicyGradient

STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "dp-em": DpEm,
    "dp-em-mixture": DpEmMixture,
    "ideal-point": IdealPoint,
    "policy-gradient": PolicyGradient,
    "fedavg-logistic": FedAvg,
    "fedavg-mlp": lambda: FedAvg(name="fedavg-mlp", classifier=Perceptron()),
    "fedadam-logistic": lambda: FedAvg(name="fedadam-logistic", server=Adam()),
    "fedadam-mlp": lambda: FedAvg(name="fedadam-mlp", server=Adam(), classifier=Perceptron()),
    "fedrep": FedRep,
    "item-dp": ItemDp,
    "local-dp": LocalDp,
    "local-only": LocalOnly,
    "centralised": Centralised,
}
"""Every strategy by name, with the settings that suit it; chosen on invented people."""


def strategy(name: str) -> Strategy:
    """The strategy of a name.

    Raises:
        SettingError: there is none.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingError(f"strategy={name!r} must be one of {', '.join(STRATEGIES)}{hint}")
    return STRATEGIES[name]()


_EVERYONE = Protection()


def arrange(
    strategy: Strategy, settings: PrivacySettings, task: Task, protection: Protection = _EVERYONE
) -> tuple[Strategy, Mechanism]:
    """The strategy and the mechanism that keep a promise together.

    Args:
        strategy: it decides the clip norm; ``settings.norm_bound`` is not used.
        settings: epsilon, delta, participations (the rounds, except where a strategy has a number of its own) and
            expected people.
        task: what will be rated.
        protection: who is asked, and what noise; of no use to a strategy that protects people itself, or nobody.
    """
    if isinstance(strategy, OwnPrivacy):
        return strategy.keeping(settings, task)
    return strategy, protection.arranged(dataclasses.replace(settings, norm_bound=strategy.norm_bound))
