"""The YAML loader of `params.yaml`: it refuses what YAML would silently misread."""

import re
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, and integers that DVC, which reads YAML 1.2, would read differently.

    By default the last duplicate wins silently, and 010 is eight here but ten in DVC.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a duplicate key."""
        keys = [key.value for key, _ in node.value]
        duplicate = next((key for key, _ in reversed(node.value) if keys.count(key.value) > 1), None)
        if duplicate is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{duplicate.value} is given twice", duplicate.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct an integer. Raises ConstructorError if it has a leading zero or is in base 60."""
        if re.search(r"^[-+]?0_*\d|:", node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not the same number in every YAML: write it in decimal", node.start_mark
            )
        return super().construct_yaml_int(node)


StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_yaml_int)
