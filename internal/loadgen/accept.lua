-- wrk asks for one prebuilt request after the other, each to another recipient, so that what wrk itself
-- costs stays small and the server's load is spread as in life.
local recipients, key, text = tonumber(os.getenv("RECIPIENTS")), os.getenv("API_KEY"), os.getenv("TEXT")
local requests, turn = {}, 0

function init()
   local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
   for n = 1, recipients do
      local body = string.format('{"to":"+9627%08d","content":"%s"}', n, text)
      requests[n] = wrk.format("POST", "/v1/messages", headers, body)
   end
end

function request()
   turn = turn % recipients + 1
   return requests[turn]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '\nRESULT {"requests":%d,"microseconds":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50":%d,"p99":%d}\n',
      summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
