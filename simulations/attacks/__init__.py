"""Attacks: what somebody gains who does not keep to the rules, by epsilon and cohort, with and without each protection.

Each attack has a control: the same attack where the protection is off has to work, or its failure means nothing.
"""
