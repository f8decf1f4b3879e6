"""`_train_memory.py CLONE WORDS ...`: `ebm train WORDS ...` by that clone; prints the peak resident memory in bytes."""

import sys

from _peak import peak

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from ebm_cli.cli.main import dispatch
    from ebm_cli.device import memory

    memory.keep_freed()
    sys.stdout = sys.stderr
    code = dispatch(["train", *sys.argv[2:]])
    print(peak(), file=sys.__stdout__)
    sys.exit(code)
