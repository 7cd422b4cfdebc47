# SPDX-License-Identifier: Apache-2.0
"""Which small bugs can be put into a file: those of cosmic-ray's operators that slip in easily, and lost statements."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import Visitor, ast_nodes, get_ast
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword
from parso.tree import NodeOrLeaf, search_ancestor

# Every operator becomes its opposite or its nearest neighbour. cosmic-ray has many more, such as >> for + of floats,
# that any test notices by a TypeError: they would say nothing about the tests.
NAMES = [
    *(f"ReplaceBinaryOperator_{change}" for change in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{change}" for change in ("Mod_Mul", "Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Lt_Gt", "LtE_GtE", "Gt_Lt", "GtE_LtE")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "AddNot", "NumberReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "ZeroIterationForLoop"),
]

# What no test should notice: texts for people, and numbers that are a choice and are documented where they stand.
TEXTS = {"fstring", "raise_stmt", "assert_stmt"}
CALLS = ("parameter(", "dataclass(", "TypeVar(", "cv2.putText(")
FUNCTIONS = {"__repr__", "__str__", "main"}
LOG = "get_logger()"
PROCESS = "if __name__ =="  # only in a process of its own
STARS = {"parameters", "dictorsetmaker"}  # where * and ** are no operators


class RemoveStatement(Operator):
    """Replaces `raise`, a call whose result is not used, or an assignment to an attribute or an element by `pass`."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple]:
        if node.parent is not None and node.parent.type == "simple_stmt" and self._removable(node):
            yield node.start_pos, node.end_pos

    def _removable(self, node: NodeOrLeaf) -> bool:
        if node.type != "expr_stmt":
            return node.type in ("atom_expr", "raise_stmt", "del_stmt")
        target, sign = node.children[:2]
        if sign.type != "operator" or target.type != "atom_expr":  # a local name would be missing
            return sign.type == "operator" and sign.value != "="
        function = search_ancestor(node, "funcdef")
        return function is None or function.name.value != "__init__"  # where an attribute would be missing

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        return Keyword("pass", node.start_pos, prefix=node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple:
        return ()


@dataclass(frozen=True)
class Mutation:
    """One small bug in a file."""

    path: Path
    line: int
    lines: range  # of the statement around it, of the function where it is no part of the body; empty for none
    operator: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.operator}({self.occurrence})"

    def source(self) -> str:
        """The whole file with the bug."""
        mutator = _Mutator(OPERATORS[self.operator], self.occurrence)
        return str(mutator.walk(get_ast(self.path.read_text())).get_code())

    def diff(self) -> str:
        """The changed lines."""
        before, after = self.path.read_text().splitlines(), self.source().splitlines()
        _, _, *lines = difflib.unified_diff(before, after, lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith("@@"))


class _Mutator(Visitor):
    """Changes the n-th place where an operator can be used."""

    def __init__(self, operator: Operator, occurrence: int) -> None:
        self._operator, self._left = operator, occurrence

    def visit(self, node: NodeOrLeaf) -> NodeOrLeaf:
        for index, _ in enumerate(list(self._operator.mutation_positions(node))):
            if self._left == 0:
                node = self._operator.mutate(node, index)
            self._left -= 1
        return node


OPERATORS: dict[str, Operator] = {name: OperatorProvider()[name]() for name in NAMES}
OPERATORS["RemoveStatement"] = RemoveStatement()


def mutations(path: Path) -> list[Mutation]:
    """Every bug that can be put into a file and that a test should notice."""
    nodes = list(ast_nodes(get_ast(path.read_text())))
    found = []
    for name, operator in OPERATORS.items():
        places = [node for node in nodes for _ in operator.mutation_positions(node)]
        found += [
            Mutation(path, node.start_pos[0], _lines(node), name, occurrence)
            for occurrence, node in enumerate(places)
            if not _is_noise(node, name)
        ]
    return found


def _lines(node: NodeOrLeaf) -> range:
    """See `Mutation.lines`."""
    function = search_ancestor(node, "funcdef")
    if function is None:
        return range(0)
    statement = node
    while statement.parent is not None and statement.parent.type != "suite" and statement.parent is not function:
        statement = statement.parent
    if statement.parent is function:
        return range(function.children[-1].get_first_leaf().end_pos[0], function.end_pos[0] + 1)
    end = statement if statement.type == "simple_stmt" else node
    return range(statement.start_pos[0], end.end_pos[0] + 1)


def _is_noise(node: NodeOrLeaf, operator: str) -> bool:
    """Whether it stands in an annotation, a text, a log call, or is the value of a constant of the module."""
    if operator == "RemoveStatement" and LOG in node.get_code():
        return True
    if operator.startswith("ReplaceBinary") and node.parent is not None and node.parent.type in STARS:
        return True
    if node.get_code().lstrip().startswith(PROCESS):
        return True
    child, parent = node, node.parent
    inside = False  # a function
    while parent is not None:
        annotation = parent.type == "annassign" and child is parent.children[1]
        if annotation or parent.type == "tfpdef" or parent.type in TEXTS:
            return True
        if parent.type == "if_stmt" and parent.get_code().lstrip().startswith(PROCESS):
            return True
        if parent.type == "funcdef":
            inside = True
            if child is parent.annotation or parent.name.value in FUNCTIONS:
                return True
        if parent.type == "atom_expr" and (parent.get_code().strip().startswith(CALLS) or LOG in parent.get_code()):
            return True
        child, parent = parent, parent.parent
    return operator == "NumberReplacer" and not inside
