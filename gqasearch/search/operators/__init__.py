"""Operators that know what a grouping is.

They act on partitions, not on label vectors, so renaming the groups of a parent changes nothing. All of
them keep the partition, the number of groups (``shift`` excepted: that is its job) and the bounds on
group sizes, and draw from the generator they are given and from nothing else.
"""

from gqasearch.search.operators.crossover import crossover
from gqasearch.search.operators.exchange_layers import exchange_layers
from gqasearch.search.operators.merge_split import merge_split
from gqasearch.search.operators.move import move, relocate
from gqasearch.search.operators.random_counts import random_counts
from gqasearch.search.operators.random_partition import random_partition
from gqasearch.search.operators.repair import allowed_counts, count_range, repair
from gqasearch.search.operators.shift import shift
from gqasearch.search.operators.swap import exchange, swap

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
