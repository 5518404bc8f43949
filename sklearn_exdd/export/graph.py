"""Graph of ONNX operators that is built node by node. Importing this module does not load onnx."""

import numpy as np

#: Version of the standard operators, and version of the file format that belongs to it.
OPSET, IR_VERSION = 18, 9


class Graph:
    """Nodes of an ONNX graph.

    Every ONNX operator can be called as a method. For example, ``graph.Add(a, b)`` appends a node with the operator Add
    and returns the name of the resulting value. An operand is the name of a value, a number or an array. A float
    becomes a float32 constant, and an integer becomes an int64 constant. An array keeps its dtype. Equal constants are
    stored only once.

    Parameters
    ----------
    outer : Graph, default=None
        Outer graph, if this graph is the body of a Scan. The nodes of this graph may use the values of the outer graph.
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
        """Return the name of an operand. A number or an array is first stored as a constant."""
        if operand is None or isinstance(operand, str):
            return operand or ""
        array = np.asarray(operand)
        if not isinstance(operand, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self.constant(array)

    def constant(self, array):
        """Store an array as a constant and return its name."""
        if self._outer is not self:
            return self._outer.constant(array)
        array = np.asarray(array, order="C")  # ascontiguousarray would turn a scalar into a vector
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._names:
            self._names[key] = self.fresh("constant")
            self.constants[self._names[key]] = array
        return self._names[key]

    # The following methods handle numbers that are known only at run time.

    def size(self, value, axis):
        """Return the size of a value along an axis, as an int64 scalar."""
        return self.Gather(self.Shape(value), axis)

    def vector(self, *scalars):
        """Join int64 scalars or integers into a vector."""
        return self.Concat(*(self.Unsqueeze(scalar, [0]) for scalar in scalars), axis=0)

    def double(self, value):
        """Convert a value to float64."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.DOUBLE)

    def float(self, value):
        """Convert a value to float32."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.FLOAT)

    def integer(self, value):
        """Convert a value to int64."""
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.INT64)

    def ceil_div(self, size, divisor):
        """Divide one size by another and round up."""
        return self.Div(self.Add(size, divisor - 1), divisor)

    def arange(self, stop, start=0):
        """Return the integers from `start` to `stop` - 1, as float64."""
        return self.double(self.Range(start, stop, 1))

    def head(self, value, axis, stop):
        """Return the first `stop` entries of a value along an axis."""
        return self.Slice(value, [0], self.vector(stop), [axis])

    def require(self, value, condition, message):
        """Append a check of a condition. If the condition is False at run time, the graph raises an error.

        Parameters
        ----------
        value : str
        condition : str
            Name of a bool scalar.
        message : str
            Error message. It becomes part of the name of the node that fails, because runtimes report this name.

        Returns
        -------
        value : str
            Name of the unchanged value. The condition is only checked if later nodes use this name.
        """
        failed = self.integer(self.Not(condition))
        # ONNX does not have an operator that raises an error. Every runtime raises an error for an index beyond the end
        # of a vector.
        name = f"{message} ({self.fresh('guard')})"
        shape = self.Gather(self.Unsqueeze(self.Shape(value), [0]), failed, axis=0, name=name)
        return self.Reshape(value, shape)

    def scan(self, values, step, dtypes):
        """Append a computation that handles one row after another. Memory holds intermediate values of only one row.

        Parameters
        ----------
        values : list of str
            Values to split into rows along their first axes, which must have the same size.
        step : callable
            Function that appends the computation for one row. It is called as ``step(body, *rows)``, with the Graph
            `body` to append to and the names of one row of each value. It returns the names of the results.
        dtypes : list of int
            Data types of the results, as numbers of onnx.TensorProto.

        Returns
        -------
        results : list of str
            Names of the results of all rows. Each result is stacked along a new first axis.
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

    # The following methods append other models and build the complete model.

    def splice(self, model, inputs):
        """Append the nodes of another model.

        Parameters
        ----------
        model : onnx.ModelProto
            Model to append. It is not modified.
        inputs : list of str
            Names of the values that replace the inputs of the model.

        Returns
        -------
        outputs : list of str
            Names of the values that replace the outputs of the model.
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
        """Return a copy of a node with renamed values, also in its subgraphs. Documentation strings are removed."""
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
