"""What the prefix cache of a server finds, predicted from the requests and the batch-time law."""

from studies.prefix_cache.prediction import CachePoint as CachePoint
from studies.prefix_cache.prediction import PrefixCache as PrefixCache
from studies.prefix_cache.prediction import sizes_between as sizes_between
from studies.prefix_cache.waiting import WaitingTurns as WaitingTurns
from studies.prefix_cache.waiting import WaitState as WaitState
