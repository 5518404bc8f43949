"""Links from public names to their pages: `ExDDDetector` in any text, and roles that omit the module of a class."""

from inspect import unwrap

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

KINDS = {"class", "function", "method"}
SCIKIT_LEARN = "https://scikit-learn.org/stable/modules/generated/{}.html"


def find(env, text):
    """Find ``Class``, ``function``, ``function(...)`` or ``Class.method``: (document, anchor), or None if not ours."""
    wanted = text.partition("(")[0].removeprefix("sklearn_exdd.").split(".")
    for name, entry in env.domains.python_domain.objects.items():
        alone = len(wanted) == 1 and entry.objtype == "method"
        if entry.objtype in KINDS and not alone and name.split(".")[-len(wanted) :] == wanted:
            return entry.docname, entry.node_id
    return None


class LinkNames(SphinxPostTransform):
    default_priority = 5

    def run(self, **kwargs):
        for literal in list(self.document.findall(nodes.literal)):
            place = find(self.env, literal.astext())
            inside = isinstance(literal.parent, (nodes.reference, nodes.title)) or "refuri" in literal.parent
            if place is None or inside or place[0] == self.env.docname:
                continue
            literal.replace_self(make_refnode(self.app.builder, self.env.docname, *place, literal.deepcopy()))


def resolve(app, env, node, content):
    """Resolve names that Sphinx does not find: :class:`MemoryBank` from another module, and names of scikit-learn."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.startswith("sklearn."):
        return nodes.reference("", "", content, refuri=SCIKIT_LEARN.format(target))
    place = find(env, target)
    return make_refnode(app.builder, node["refdoc"], *place, content) if place else None


def skip_foreign(app, kind, name, member, skip, options):
    """Skip members inherited from scikit-learn, and properties without a docstring, which would get that of int."""
    module = getattr(unwrap(member), "__module__", None) or ""
    mute = isinstance(member, property) and not member.__doc__
    return True if mute or module.startswith("sklearn.") else None


def setup(app):
    app.add_post_transform(LinkNames)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True}
