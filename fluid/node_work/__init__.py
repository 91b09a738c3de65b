"""What one node does given the work in its system: moments of the requests, and the closure."""

from fluid.node_work.closure import WorkClosure as WorkClosure
from fluid.node_work.decode_node import tokens_besides as tokens_besides
from fluid.node_work.decode_node import work_closure as work_closure
from fluid.node_work.request_work import RequestWork as RequestWork
from fluid.node_work.request_work import request_work as request_work
