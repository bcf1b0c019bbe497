"""Taste models by name. Listing a name here puts the model under the shared contract test and into `plgl compare`.

========== ===================================================================================================
default    population part plus a personal Gaussian process, chosen by evidence (``gaussian_process``)
gp         the personal Gaussian process alone
bayes      Bayesian linear in the features, population prior against flat priors by evidence (``bayes``)
logistic   logistic regression on the latents ``[z, 1]``, the usual baseline (``linear``)
linear     logistic regression on the features
svm        linear support vector machine, ranking where answers compare (``svm``)
svm-rbf    support vector machine on the latents, radial basis functions, C = 10, gamma = 1e-4
neural     five small neural networks on the features (``neural``)
========== ===================================================================================================

Modules are imported when a model is asked for: this package itself stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor

    from client.classifiers.base import TasteModel
    from common.prior import PopulationPrior

MODELS = ("default", "gp", "bayes", "logistic", "linear", "svm", "svm-rbf", "neural")


def taste_model(
    name: str, *, prior: PopulationPrior | None = None, lens_scale: Tensor | None = None, seed: int = 0
) -> TasteModel:
    """A taste model.

    Args:
        name: one of ``MODELS``.
        prior: what the population likes; models that cannot use it do without.
        lens_scale: ``(k,)`` how much each feature varies among what people see (``Lens.scale``); equal without.
        seed: for models that draw random numbers when they are fitted.

    Raises:
        SettingError: there is no model of that name.
    """
    if name in ("default", "gp"):
        from client.classifiers.gaussian_process import PersonalGaussianProcess

        return PersonalGaussianProcess(prior=prior, scale=lens_scale, linear=name == "default")
    if name == "bayes":
        from client.classifiers.bayes import BayesianLinear

        return BayesianLinear(prior=prior, scale=lens_scale)
    if name in ("logistic", "linear"):
        from client.classifiers.linear import LogisticRegression

        return LogisticRegression(view="latents" if name == "logistic" else "features", scale=lens_scale)
    if name in ("svm", "svm-rbf"):
        from client.classifiers.svm import SupportVectorMachine

        if name == "svm":
            return SupportVectorMachine(kernel="linear", view="features", scale=lens_scale, seed=seed)
        return SupportVectorMachine(kernel="rbf", view="latents", seed=seed)
    if name == "neural":
        from client.classifiers.neural import NeuralEnsemble

        return NeuralEnsemble(scale=lens_scale, seed=seed)
    raise SettingError(f"taste model {name!r} is unknown; choose one of {', '.join(MODELS)}")
