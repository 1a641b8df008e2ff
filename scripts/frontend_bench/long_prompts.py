"""One long prompt after another, until standard input ends; prints how many were answered.

python -P long_prompts.py PORT KIND NUM_BYTES
"""

import http.client
import select
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frontend_bench.bodies import long_calls


def main(port: int, kind: str, num_bytes: int) -> None:
    call = long_calls(num_bytes)[kind]
    connection = http.client.HTTPConnection("127.0.0.1", port)
    num_answers = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        connection.request("POST", call.path, call.body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        answer = reply.read()
        if reply.status != http.client.OK:
            raise SystemExit(f"{kind}: {reply.status} {answer[:200]!r}")
        num_answers += 1
    print(num_answers)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
