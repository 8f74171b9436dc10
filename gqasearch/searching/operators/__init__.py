"""Operators that know what a grouping is.

They act on partitions, not on label vectors, so renaming the groups of a parent changes nothing. All of
them keep the partition, the number of groups (``shift`` excepted: that is its job) and the bounds on
group sizes, and draw from the generator they are given and from nothing else.
"""

from gqasearch.searching.operators.crossover import crossover
from gqasearch.searching.operators.exchange_layers import exchange_layers
from gqasearch.searching.operators.merge_split import merge_split
from gqasearch.searching.operators.move import move, relocate
from gqasearch.searching.operators.random_counts import random_counts
from gqasearch.searching.operators.random_partition import random_partition
from gqasearch.searching.operators.repair import allowed_counts, count_range, repair
from gqasearch.searching.operators.shift import shift
from gqasearch.searching.operators.swap import exchange, swap

__all__ = [
    "allowed_counts",
    "count_range",
    "crossover",
    "exchange",
    "exchange_layers",
    "merge_split",
    "move",
    "random_counts",
    "random_partition",
    "relocate",
    "repair",
    "shift",
    "swap",
]
