"""Online prediction and routing: which instance should serve the next request.

The way of a prediction (:class:`Predictor`; every message is one of :mod:`~scheduling.messages`):

1. *enqueue*: a request was sent to an instance (``enqueue_request``).
2. *sync*: an instance reports a batch that has ended (``sync_batch_result``).
3. *belief*: both change the ``instance_state``, a pattern of who waits (``waiting``, ``computed``)
   and of who runs (``running_set``). ``silence`` moves it on for a ``seldom`` told predictor.
4. *march*: ``march_start`` reads off the belief what the fluid model begins with, ``arrival_rate``
   who is expected to come, ``lengths`` how long answers are; :mod:`ode` marches and leaves a
   forecast. ``reuse`` says how long it is good for.
5. *look-up*: ``answering`` and ``tagged`` read the latencies of one more request off the forecast.
6. *bounds*: ``predictions`` carry them out, with what ``record``, ``truths`` and ``bounds`` have
   learnt of earlier ones; ``corrected`` and ``residuals`` put a factor on them.
7. *policy*: one of ``policies`` picks an instance by what it sees (``signals``) or by predictions.

Besides:

- The experiment: ``routing`` deals requests out to a ``fleet`` of engines, whose ``post`` carries
  reports to those who are ``listening``; a ``fleet_run`` comes out. ``experiment`` compares
  policies, ``paired`` their means, ``drift`` beliefs with what was so, ``reference`` predictions
  with forks of the engine.
- The least fleet: ``replicas`` searches, ``sizing`` runs, ``fleet_size`` judges, and ``gpu_time``
  says what it costs.
- Kept in a file: ``snapshot``, ``state_arrays``, ``corrector_arrays``, ``sync_counts``.
- ``aggregates``: predictions for who tells nothing but counts.

The room imports rooms below it and never :mod:`fluidserve`. It re-implements no engine and no
model; it draws, prints and writes nothing; and it tells no predictor and no policy the length of an
answer, unless ``predicted_lengths`` asks for it.
"""

from scheduling.corrected import CorrectedPredictor as CorrectedPredictor
from scheduling.fleet_run import FleetRun as FleetRun
from scheduling.lengths import LengthModel as LengthModel
from scheduling.listening import Listener as Listener
from scheduling.listening import Predicts as Predicts
from scheduling.messages import BatchTrace as BatchTrace
from scheduling.messages import Prediction as Prediction
from scheduling.messages import RequestMeta as RequestMeta
from scheduling.policies import POLICIES as POLICIES
from scheduling.post import Faults as Faults
from scheduling.predictions import Predictions as Predictions
from scheduling.predictor import Predictor as Predictor
from scheduling.reuse import ReusePolicy as ReusePolicy
from scheduling.routing import route as route
from scheduling.seldom import SeldomToldPredictor as SeldomToldPredictor
from scheduling.signals import Signals as Signals
from scheduling.signals import View as View
from scheduling.signals import lowest as lowest
