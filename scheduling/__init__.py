"""Online prediction and routing: which instance should serve the next request.

:mod:`scheduling.messages` has what schedulers, instances and the predictor tell one another;
:class:`Predictor` answers what one more request would see on each instance. :func:`route` deals
requests out to the instances of a fleet by one of :data:`POLICIES`.
"""

from scheduling.corrected import CorrectedPredictor as CorrectedPredictor
from scheduling.fleet_run import FleetRun as FleetRun
from scheduling.lengths import LengthModel as LengthModel
from scheduling.listening import Faults as Faults
from scheduling.listening import Listener as Listener
from scheduling.listening import Predicts as Predicts
from scheduling.messages import BatchTrace as BatchTrace
from scheduling.messages import Prediction as Prediction
from scheduling.messages import RequestMeta as RequestMeta
from scheduling.policies import POLICIES as POLICIES
from scheduling.predictions import Predictions as Predictions
from scheduling.predictor import Predictor as Predictor
from scheduling.reuse import ReusePolicy as ReusePolicy
from scheduling.routing import route as route
from scheduling.seldom import SeldomToldPredictor as SeldomToldPredictor
from scheduling.signals import Signals as Signals
from scheduling.signals import View as View
from scheduling.signals import lowest as lowest
