# SPDX-License-Identifier: Apache-2.0
"""A SessionBench with another node beside it, whose client the policy node answers."""

import rclpy
from rclpy.executors import SingleThreadedExecutor
from session_bench import SessionBench


class ClientBench(SessionBench):
    """`other`: the client's node. `spin_until` lets messages through without time passing."""

    def __init__(self, monkeypatch, name, **parameters):
        super().__init__(monkeypatch, **parameters)
        self.other = rclpy.create_node(name, context=self.context, namespace=self.node.get_namespace())
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.other)
        self.session.timer.stop()  # ticks come by hand

    def close(self):
        self.other.destroy_node()
        super().close()
        self.executor.shutdown()

    def spin_until(self, condition):
        def spun():
            self.executor.spin_once(timeout_sec=0.01)
            return condition()

        self.until(spun)
