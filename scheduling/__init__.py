"""Online prediction and routing: which instance should serve the next request.

:mod:`scheduling.messages` has what schedulers, instances and the predictor tell one another;
:class:`Predictor` answers what one more request would see on each instance.
"""

from scheduling.lengths import LengthModel as LengthModel
from scheduling.messages import BatchTrace as BatchTrace
from scheduling.messages import Prediction as Prediction
from scheduling.messages import RequestMeta as RequestMeta
from scheduling.predictions import Predictions as Predictions
from scheduling.predictor import Predictor as Predictor
from scheduling.predictor import ReusePolicy as ReusePolicy
