"""``python -m attn_plugins ops``: link mmcv to operators that need no compiler."""

import argparse
import sys

from ..ops import link


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='attn-plugins ops',
        description=(
            "mmcv-lite has all of mmcv but its compiled operators. 'link' writes one "
            'file, mmcv/_ext.py, through which mmcv finds those of attn_plugins; '
            "'unlink' takes it away. A compiled mmcv always keeps its own."
        ),
    )
    parser.add_argument('action', choices=('link', 'unlink', 'status'))
    action = parser.parse_args().action
    try:
        print(
            {'link': link.link, 'unlink': link.unlink, 'status': link.status}[action]()
        )
    except (link.LinkError, OSError) as error:
        print(f'attn_plugins ops {action}: error: {error}', file=sys.stderr)
        return 1
    return 0
