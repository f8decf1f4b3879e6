from ebm_cli.api.loading import load as load
from ebm_cli.api.run import Imputed as Imputed
from ebm_cli.api.run import TrainedRun as TrainedRun
from ebm_cli.api.training import evaluate as evaluate
from ebm_cli.api.training import train as train
from ebm_cli.commands.score import LogLikelihood as LogLikelihood
from ebm_cli.errors import RunError as RunError
from ebm_cli.errors import UserError as UserError

__version__: str
