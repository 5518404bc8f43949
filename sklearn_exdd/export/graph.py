"""Graph of ONNX operators, written node by node. Importing this module does not load onnx."""

import numpy as np

#: Version of the standard operators, and of the matching file format.
OPSET, IR_VERSION = 18, 9


class Graph:
    """Nodes of an ONNX graph. Calling a method named like an operator appends such a node.

    Operands are names of values, as returned by the methods, or numbers and arrays. Floats become float32, integers
    int64; arrays keep their dtype. Equal constants are stored only once.

    Parameters
    ----------
    outer : Graph, default=None
        Graph whose values the nodes of this graph may use, if this graph is the body of a Scan.
    """

    def __init__(self, outer=None):
        self.nodes = []
        self._outer = self if outer is None else outer
        if outer is None:
            self.constants, self._names, self._n_values = {}, {}, 0

    def __getattr__(self, operator):
        if not operator[:1].isupper():
            raise AttributeError(operator)

        def append(*operands, n_outputs=1, name=None, **attributes):
            from onnx import helper

            outputs = [self.fresh(operator.lower()) for _ in range(n_outputs)]
            inputs = [self.value(operand) for operand in operands]
            self.nodes.append(helper.make_node(operator, inputs, outputs, name=name or outputs[0], **attributes))
            return outputs[0] if n_outputs == 1 else outputs

        return append

    def fresh(self, stem):
        """Return an unused name."""
        root = self._outer
        if root is not self:
            return root.fresh(stem)
        self._n_values += 1
        return f"{stem}_{self._n_values}"

    def value(self, operand):
        """Return the name of an operand; a number or array becomes a constant."""
        if operand is None or isinstance(operand, str):
            return operand or ""
        array = np.asarray(operand)
        if not isinstance(operand, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self.constant(array)

    def constant(self, array):
        """Return the name of a constant."""
        if self._outer is not self:
            return self._outer.constant(array)
        array = np.asarray(array, order="C")  # ascontiguousarray would turn a scalar into a vector
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._names:
            self._names[key] = self.fresh("constant")
            self.constants[self._names[key]] = array
        return self._names[key]

    # Numbers known only at run time

    def size(self, value, axis):
        """Return the size of a value along an axis, an int64 scalar."""
        return self.Gather(self.Shape(value), axis)

    def vector(self, *scalars):
        """Return int64 scalars, or integers, as a vector."""
        return self.Concat(*(self.Unsqueeze(scalar, [0]) for scalar in scalars), axis=0)

    def double(self, value):
        """Return a value as float64."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.DOUBLE)

    def float(self, value):
        """Return a value as float32."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.FLOAT)

    def integer(self, value):
        """Return a value as int64."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.INT64)

    def ceil_div(self, size, divisor):
        """Return the quotient of sizes, rounded up."""
        return self.Div(self.Add(size, divisor - 1), divisor)

    def arange(self, stop, start=0):
        """Return the integers from `start` to `stop` - 1, as float64."""
        return self.double(self.Range(start, stop, 1))

    def head(self, value, axis, stop):
        """Return the first entries along an axis."""
        return self.Slice(value, [0], self.vector(stop), [axis])

    def require(self, value, condition, message):
        """Return a value unchanged, but make the graph fail at run time unless a condition holds.

        Parameters
        ----------
        value : str
        condition : str
            Name of a bool scalar.
        message : str
            Beginning of the name of the failing node, which runtimes report.

        Returns
        -------
        value : str
        """
        failed = self.integer(self.Not(condition))
        # ONNX has no operator that fails, but every runtime fails on an index beyond the end of a vector.
        name = f"{message} ({self.fresh('guard')})"
        shape = self.Gather(self.Unsqueeze(self.Shape(value), [0]), failed, axis=0, name=name)
        return self.Reshape(value, shape)

    def scan(self, values, step, dtypes):
        """Compute row by row, so that memory holds the intermediate values of only one row at a time.

        Parameters
        ----------
        values : list of str
            Values whose first axes have the same size.
        step : callable
            Function called as ``step(body, *rows)`` with one entry of each value. It appends the computation to the
            Graph `body`, and returns the names of the results.
        dtypes : list of int
            Types of the results, as numbers from onnx.TensorProto.

        Returns
        -------
        results : list of str
            Stacked results of all rows.
        """
        from onnx import TensorProto, helper

        body = Graph(self._outer)
        rows = [body.fresh("row") for _ in values]
        results = step(body, *rows)
        inputs = [helper.make_tensor_value_info(row, TensorProto.FLOAT, None) for row in rows]
        outputs = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in zip(results, dtypes)]
        graph = helper.make_graph(body.nodes, body.fresh("body"), inputs, outputs)
        stacked = self.Scan(*values, n_outputs=len(results), body=graph, num_scan_inputs=len(values))
        return [stacked] if len(results) == 1 else stacked

    # Other graphs, and the whole model

    def splice(self, model, inputs):
        """Append the nodes of a model.

        Parameters
        ----------
        model : onnx.ModelProto
            Model to append. It is not modified.
        inputs : list of str
            Values that replace the inputs of the model.

        Returns
        -------
        outputs : list of str
        """
        from onnx import numpy_helper

        if model.functions:
            raise ValueError(f"expected a model of standard operators, got the functions {_domains(model.functions)}.")
        names = {value.name: given for value, given in zip(model.graph.input, inputs)}
        for tensor in model.graph.initializer:
            names[tensor.name] = self.constant(numpy_helper.to_array(tensor))
        for node in model.graph.node:
            self.nodes.append(self._renamed(node, names))
        return [names[output.name] for output in model.graph.output]

    def _renamed(self, node, names):
        """Return a copy of a node with renamed values, also in its subgraphs, and without notes on its origin."""
        from onnx import AttributeProto, helper

        outputs = [names.setdefault(name, self.fresh(node.op_type.lower())) if name else "" for name in node.output]
        inputs = [names[name] if name else "" for name in node.input]
        copy = helper.make_node(node.op_type, inputs, outputs, name=outputs[0], domain=node.domain)
        for attribute in node.attribute:
            kept = copy.attribute.add()
            kept.CopyFrom(attribute)
            kept.ClearField("doc_string")
            if attribute.type == AttributeProto.GRAPH:
                kept.g.CopyFrom(self._renamed_subgraph(attribute.g, dict(names)))
        return copy

    def _renamed_subgraph(self, graph, names):
        from onnx import helper, numpy_helper

        for tensor in graph.initializer:
            names[tensor.name] = self.constant(numpy_helper.to_array(tensor))
        inputs = []
        for value in graph.input:
            names[value.name] = self.fresh("row")
            inputs.append(helper.make_value_info(names[value.name], value.type))
        nodes = [self._renamed(node, names) for node in graph.node]
        outputs = [helper.make_value_info(names[value.name], value.type) for value in graph.output]
        return helper.make_graph(nodes, self.fresh("body"), inputs, outputs)

    def model(self, inputs, outputs, *, metadata, doc_string):
        """Return the complete model.

        Parameters
        ----------
        inputs, outputs : list of onnx.ValueInfoProto
        metadata : dict of str to str
        doc_string : str

        Returns
        -------
        model : onnx.ModelProto
        """
        from onnx import helper, numpy_helper

        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "detector", inputs, outputs, constants, doc_string=doc_string)
        model = helper.make_model(
            graph,
            producer_name="sklearn_exdd",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            doc_string=doc_string,
        )
        helper.set_model_props(model, metadata)
        return model


def _domains(functions):
    return sorted(f"{function.domain}.{function.name}" for function in functions)
