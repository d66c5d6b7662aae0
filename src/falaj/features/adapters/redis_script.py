"""What the server of an online store on Redis runs: a write as one script.

A script is applied whole, and nothing else happens on the server meanwhile. It compares
before it changes anything, so that it never stops half way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

PORTION = 1000
"""Rows that the script gets and puts at once; Lua's stack holds about 8,000 values."""

APPLY = """#!lua
-- KEYS: touch, [mark,] keys of rows, keys of merged rows.
-- ARGV: seconds that the mark is kept (0: no mark), ends of the portions of rows, of merged
-- rows whether one was expected (1, 0) and what to do (p: put, d: delete, k: keep), rows,
-- expected rows, new rows.
-- Returns 0 (the mark was there), -1 (a merged row has changed) or 1, and how many rows of
-- KEYS were older than the stored ones.
local call, many, numbers, byte = redis.call, unpack, struct.unpack, string.byte

-- Whether the first 24 bytes of a stored row compare greater than those of another. Lua's
-- own < would compare strings as the server's locale sorts them.
local function is_newer(stored, row)
  if #stored >= 24 and #row >= 24 then
    for at = 1, 17, 8 do
      local a, b = numbers('>I4I4', stored, at)
      local c, d = numbers('>I4I4', row, at)
      if a ~= c then return a > c end
      if b ~= d then return b > d end
    end
    return false
  end
  local n, m = math.min(#stored, 24), math.min(#row, 24)
  for at = 1, math.min(n, m) do
    local a, b = byte(stored, at), byte(row, at)
    if a ~= b then return a > b end
  end
  return n > m
end

local seconds, expected, wanted = tonumber(ARGV[1]), ARGV[3], ARGV[4]
local key, arg, merged = 1, 4, #expected
if seconds > 0 then
  key = 2
  if call('EXISTS', KEYS[2]) == 1 then
    call('SET', KEYS[1], '')
    return {0, 0}
  end
end
local n = #KEYS - key - merged

for first = 1, merged, 1000 do
  local last = math.min(first + 999, merged)
  local stored = call('MGET', many(KEYS, key + n + first, key + n + last))
  for at = first, last do
    local found = stored[at - first + 1]
    if found ~= (byte(expected, at) == 49 and ARGV[arg + n + at]) then return {-1, 0} end
  end
end

local wrote, older, first = false, 0, 1
for ending in string.gmatch(ARGV[2], '%d+') do
  local last = tonumber(ending)
  local stored = call('MGET', many(KEYS, key + first, key + last))
  local put, size = {}, 0
  for at = first, last do
    local found, row = stored[at - first + 1], ARGV[arg + at]
    if found and is_newer(found, row) then
      older = older + 1
    else
      put[size + 1], put[size + 2], size = KEYS[key + at], row, size + 2
    end
  end
  if size > 0 then
    call('MSET', many(put, 1, size))
    wrote = true
  end
  first = last + 1
end
for at = 1, merged do
  local what = byte(wanted, at)
  if what == 112 then
    call('SET', KEYS[key + n + at], ARGV[arg + n + merged + at])
    wrote = true
  elseif what == 100 then
    call('DEL', KEYS[key + n + at])
    wrote = true
  end
end
if seconds > 0 then
  call('SET', KEYS[2], '', 'EX', seconds)
elseif not wrote then
  call('SET', KEYS[1], '')  -- WAITAOF waits for writes of the same connection
end
return {1, older}
"""
APPLY_SHA = hashlib.sha1(APPLY.encode(), usedforsecurity=False).hexdigest()
REHEARSE = """#!lua
redis.call('SET', KEYS[1], '', 'EX', 1)
redis.call('MSET', KEYS[1], '')
redis.call('MGET', KEYS[1])
redis.call('EXISTS', KEYS[1])
redis.call('DEL', KEYS[1])
"""


@dataclass
class Change:
    """What the script is to do.

    Args:
        rows: to be put if they are newer.
        once: the mark of the write.
        keys, before, after: merged rows, what they were made of, and what they are now.
    """

    rows: Sequence[tuple[bytes, bytes]]
    once: bytes | None = None
    keys: Sequence[bytes] = ()
    before: Sequence[bytes | None] = ()
    after: Sequence[bytes | None] = ()

    def arguments(
        self, rows: bytes, marks: bytes, touch: bytes, once_seconds: int
    ) -> list[bytes | str | int]:
        """What the script gets, from the number of its keys on.

        Args:
            rows, marks: the prefixes of keys and marks.
            touch: a key that is written when nothing else is.
            once_seconds: how long the mark is kept.
        """
        changes = list(zip(self.before, self.after, strict=True))
        keys = [
            touch,
            *([] if self.once is None else [marks + self.once]),
            *[rows + key for key, _ in self.rows],
            *[rows + key for key in self.keys],
        ]
        return [
            len(keys),
            *keys,
            0 if self.once is None else once_seconds,
            ",".join(map(str, portions([key for key, _ in self.rows]))),
            "".join("0" if old is None else "1" for old, _ in changes),
            "".join("k" if old == new else "d" if new is None else "p" for old, new in changes),
            *[row for _, row in self.rows],
            *[b"" if old is None else old for old, _ in changes],
            *[b"" if new is None or new == old else new for old, new in changes],
        ]


def portions(keys: Sequence[bytes]) -> list[int]:
    """Where to cut rows so that no portion is too long or has a key twice: the ends, from 1."""
    if len(set(keys)) == len(keys):
        return [*range(PORTION, len(keys), PORTION), len(keys)] if keys else []
    ends, seen = [], set[bytes]()
    for number, key in enumerate(keys):
        if key in seen or len(seen) == PORTION:
            ends.append(number)
            seen.clear()
        seen.add(key)
    return [*ends, len(keys)]
