-- Sends prepared requests in turn and tells what came of it as one line of JSON.
-- The file holds, for each request, a line with its length and then its bytes.

local asked, place = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local line = file:read("*l")
    if not line then break end
    asked[#asked + 1] = file:read(tonumber(line))
  end
  file:close()
end

function request()
  place = place % #asked + 1
  return asked[place]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"n":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout))
end
