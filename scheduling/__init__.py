"""Online prediction and routing: which instance should serve the next request.

:mod:`scheduling.messages` has what schedulers, instances and the predictor tell one another.
"""

from scheduling.messages import BatchTrace as BatchTrace
from scheduling.messages import Prediction as Prediction
from scheduling.messages import RequestMeta as RequestMeta
