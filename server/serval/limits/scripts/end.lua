-- Ledger.settle: the first end of a reservation counts, so this may be sent again.
local id, used_requests, used_tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_ms = tonumber(ARGV[4])
local now = moment(ARGV[5], ARGV[6])
local used_cost = tonumber(ARGV[7])

local expires = tonumber(redis.call('ZSCORE', OPEN, id))
local reservation = redis.call('HGET', RESERVATIONS, id)
redis.call('ZREM', OPEN, id)
redis.call('HDEL', RESERVATIONS, id)
if not expires or not reservation then
  return 0
end

local tokens_reserved, day, request_mark, token_mark, requests_reserved, cost = unpacked(reservation)
for number = 1, requests_reserved do
  redis.call('ZREM', RUNNING, member(id, number))
end
if expires <= now then
  return 0
end
if request_mark ~= '-' or token_mark ~= '-' then
  local requests, tokens = read_buckets(now)
  if request_mark ~= '-' then
    drain(requests, now)
    correct(requests, requests_reserved, used_requests, tonumber(request_mark))
  end
  if token_mark ~= '-' then
    drain(tokens, now)
    correct(tokens, tokens_reserved, used_tokens, tonumber(token_mark))
  end
  write_buckets(requests, tokens, lease_ms)
end
-- An expired day must not come back as a credit.
if day ~= '-' and redis.call('HEXISTS', DAYS, day) == 1 then
  add_to_day(
    tonumber(day), used_tokens - tokens_reserved, used_cost - cost, -tokens_reserved, -cost
  )
end
return 1
