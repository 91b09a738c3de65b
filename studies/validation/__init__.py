"""Hold a prediction against a measured run."""

from studies.validation.matching import Matched as Matched
from studies.validation.matching import Source as Source
from studies.validation.matching import match_law as match_law
from studies.validation.matching import with_law as with_law
from studies.validation.prediction import Prediction as Prediction
from studies.validation.replay import replay as replay
from studies.validation.requests import Replayed as Replayed
from studies.validation.requests import replayed as replayed
from studies.validation.validation import Validation as Validation
from studies.validation.validation import validate as validate
