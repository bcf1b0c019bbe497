"""Generators that learn: a small policy in front of a frozen generator makes an endless stream of items somebody likes.

================== ==========================================================================================
flow               the policy: noise -> latent, an invertible network that starts as the identity
reward             what is to be raised: tastes, functions of the media, mixtures of several
goal               reward - price of leaving the latent law + variety, for each level from safe to surprising
learner            two learners behind one interface, with the same laws: ``reparameterised`` and ``ppo``
replay             samples scored before, used again with importance weights, and as a warm start
guard              stops where the reward rises and held-out answers say otherwise, or the policy drifts too far
training           rounds of learning under a guard; resumes, and keeps the last good policy
distillation       the same stream from a policy with a fifth of the parameters
keeping            the policy as bytes, and sealed beside the ratings it was learned from
population         a policy of everybody, made of private releases; what a stream begins with before any rating
stream             items for a session, at a level; what ``plgl stream`` and a wall of items call
================== ==========================================================================================
"""

LEVEL = 0.2  # of a stream where nobody chooses: safer gains two points of percentile, surprising a tenth of variety
