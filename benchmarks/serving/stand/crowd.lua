-- Many clients with a random pause before each request; counts answers by what they say.
-- The file holds, for each request, a line with its length and then its bytes.

local asked, place, pause, threads = {}, 0, 0, {}
accepted, refused, other = 0, 0, 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local line = file:read("*l")
    if not line then break end
    asked[#asked + 1] = file:read(tonumber(line))
  end
  file:close()
  pause = tonumber(args[2])
end

function delay()
  return math.floor(-pause * math.log(1 - math.random()) + 0.5)
end

function request()
  place = place % #asked + 1
  return asked[place]
end

function response(status, headers, body)
  if status == 200 then
    accepted = accepted + 1
  elseif (status == 503 or status == 429) and headers["retry-after"] then
    refused = refused + 1
  else
    other = other + 1
  end
end

function done(summary, latency, requests)
  local told = { accepted = 0, refused = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(told) do
      told[name] = told[name] + thread:get(name)
    end
  end
  local e = summary.errors
  io.write(string.format(
    '{"seconds":%.6f,"accepted":%d,"refused":%d,"errors":%d,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.duration / 1e6, told.accepted, told.refused,
    told.other + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
