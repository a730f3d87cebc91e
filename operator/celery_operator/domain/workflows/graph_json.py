"""The JSON form of a graph, as a checkpoint keeps it.

What many steps share (the barrier after a group, the list of its results) stands once, in a table, and is shared again
after reading: a chain of wide groups would otherwise grow with the square of their width.
"""

from __future__ import annotations

from typing import Any

from celery_operator.api.task import Retry
from celery_operator.domain.messages import DEFAULT_QUEUE
from celery_operator.domain.workflows.graph import (
    COMPILER_VERSION,
    After,
    Call,
    Expression,
    Graph,
    GraphOutput,
    ItemList,
    ItemRange,
    Items,
    ItemsOf,
    ItemValue,
    LiteralValue,
    Node,
    ParameterValue,
    ResultList,
    StepResult,
)
from celery_patterns.jsonpath import WHOLE


def encode(graph: Graph) -> dict[str, Any]:
    """Return the JSON form of a graph."""
    return _Encoder().graph(graph)


def decode(body: Any) -> Graph:
    """Read the JSON form. Raises ValueError if it is none, or of a later compiler."""
    version = body.get("version") if isinstance(body, dict) else None
    if not isinstance(version, int) or not 1 <= version <= COMPILER_VERSION:
        raise ValueError(
            f"this operator reads graphs of compiler versions 1 to {COMPILER_VERSION}, not {version!r}: "
            "run the operator version that began the run, or a later one"
        )
    try:
        return _Decoder(body).graph(body)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the stored graph is damaged: {error!r}") from error


def _set(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _Encoder:
    def __init__(self) -> None:
        self.joins: dict[tuple[After, ...], int] = {}
        self.lists: list[list[Any]] = []
        self.list_numbers: dict[int, int] = {}

    def graph(self, graph: Graph) -> dict[str, Any]:
        nodes = [self.node(node) for node in graph.nodes]
        outputs = [{"name": output.name, "value": self.expression(output.value)} for output in graph.outputs]
        joins = [
            [after.step if after.condition == "Succeeded" else [after.step, after.condition] for after in join]
            for join in self.joins
        ]
        return {
            "version": COMPILER_VERSION,
            "parameters": dict(graph.parameters),
            "joins": joins,
            "lists": self.lists,
            "nodes": nodes,
            "outputs": outputs,
        }

    def node(self, node: Node) -> dict[str, Any]:
        return _set(
            name=node.name,
            kind=node.kind,
            call=self.call(node.call),
            after=self.joins.setdefault(node.after, len(self.joins)) if node.after else None,
            allowFailure=node.allow_failure or None,
            items=None if node.items is None else self.items(node.items),
            parallelism=node.parallelism,
            maxFailed=node.max_failed or None,
            source=node.source,
            combine=None if node.combine is None else self.call(node.combine),
            fanIn=node.fan_in,
        )

    def call(self, call: Call) -> dict[str, Any]:
        # Absent stands for version 1's defaults; what was set is kept whole, whatever later defaults are.
        retry = None if call.retry == Retry() else call.retry.model_dump(mode="json", by_alias=True)
        return _set(
            task=call.task,
            args=[self.expression(arg) for arg in call.args] or None,
            kwargs={name: self.expression(arg) for name, arg in call.kwargs} or None,
            queue=None if call.queue == DEFAULT_QUEUE else call.queue,
            timeLimit=call.time_limit,
            softTimeLimit=call.soft_time_limit,
            lostAfter=call.lost_after,
            retry=retry,
        )

    def items(self, items: Items) -> dict[str, Any]:
        match items:
            case ItemList(values):
                return {"list": list(values)}
            case ItemRange(start, end, step):
                return {"range": [start, end, step]}
            case ItemsOf(source):
                return {"of": self.expression(source)}

    def expression(self, expression: Expression) -> dict[str, Any]:
        match expression:
            case LiteralValue(value):
                return {"literal": value}
            case ParameterValue(name):
                return {"parameter": name}
            case ItemValue(path):
                return {"item": path}
            case StepResult(step, path, index):
                return _set(result=step, path=None if path == WHOLE else path, index=index)
            case ResultList():
                return {"list": self.list_number(expression)}

    def list_number(self, results: ResultList) -> int:
        # By identity: the compiler hands the same list to all who follow a group.
        number = self.list_numbers.get(id(results))
        if number is None:
            elements = [self.expression(element) for element in results.elements]
            number = self.list_numbers[id(results)] = len(self.lists)
            self.lists.append(elements)
        return number


class _Decoder:
    def __init__(self, body: dict[str, Any]) -> None:
        self.joins = [
            tuple(After(each) if isinstance(each, str) else After(each[0], each[1]) for each in join)
            for join in body["joins"]
        ]
        self.lists: list[ResultList] = []
        for elements in body["lists"]:  # a list only holds lists that stand before it
            self.lists.append(ResultList(tuple(self.expression(element) for element in elements)))

    def graph(self, body: dict[str, Any]) -> Graph:
        return Graph(
            nodes=tuple(self.node(node) for node in body["nodes"]),
            parameters=dict(body["parameters"]),
            outputs=tuple(GraphOutput(each["name"], self.expression(each["value"])) for each in body["outputs"]),
        )

    def node(self, body: dict[str, Any]) -> Node:
        return Node(
            name=body["name"],
            kind=body["kind"],
            call=self.call(body["call"]),
            after=self.joins[body["after"]] if "after" in body else (),
            allow_failure=body.get("allowFailure", False),
            items=self.items(body["items"]) if "items" in body else None,
            parallelism=body.get("parallelism"),
            max_failed=body.get("maxFailed", 0),
            source=body.get("source"),
            combine=self.call(body["combine"]) if "combine" in body else None,
            fan_in=body.get("fanIn"),
        )

    def call(self, body: dict[str, Any]) -> Call:
        return Call(
            task=body["task"],
            args=tuple(self.expression(arg) for arg in body.get("args", ())),
            kwargs=tuple((name, self.expression(arg)) for name, arg in body.get("kwargs", {}).items()),
            queue=body.get("queue", DEFAULT_QUEUE),
            time_limit=body.get("timeLimit"),
            soft_time_limit=body.get("softTimeLimit"),
            lost_after=body.get("lostAfter"),
            retry=Retry.model_validate(body.get("retry", {})),
        )

    def items(self, body: dict[str, Any]) -> Items:
        if "list" in body:
            return ItemList(tuple(body["list"]))
        if "range" in body:
            return ItemRange(*body["range"])
        source = self.expression(body["of"])
        if not isinstance(source, (StepResult, ResultList)):
            raise TypeError("items come from results")
        return ItemsOf(source)

    def expression(self, body: dict[str, Any]) -> Expression:
        if "literal" in body:
            return LiteralValue(body["literal"])
        if "parameter" in body:
            return ParameterValue(body["parameter"])
        if "item" in body:
            return ItemValue(body["item"])
        if "list" in body:
            shared: ResultList = self.lists[body["list"]]
            return shared
        return StepResult(body["result"], body.get("path", WHOLE), body.get("index"))
