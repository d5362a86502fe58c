"""What the fragments of the README talk about."""

import asyncio  # noqa: F401  # the blocks import what is new

from stateful_executor import StatePolicy  # noqa: F401


class Connection:
    """To nowhere."""

    def ping(self):
        return True

    def rollback(self):
        pass

    def close(self):
        pass


class Parser:
    pass


connect, make_parser = Connection, Parser
ids = range(10)


def load_user(connection, key):
    return type(connection), key


def checksum(file, offset):
    return file.name, offset


def parse(parser, file):
    return parser, file.name


path, size, step = __file__, 1_000, 100
