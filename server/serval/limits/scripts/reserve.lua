-- Ledger.reserve: reserve everything requested, or nothing.
local id, cost = ARGV[1], tonumber(ARGV[2])
-- Empty: no such limit.
local per_minute, tokens_per_minute = tonumber(ARGV[3]), tonumber(ARGV[4])
local concurrent, tokens_per_day = tonumber(ARGV[5]), tonumber(ARGV[6])
local lease_ms = tonumber(ARGV[7])
local now, unix_ms = moment(ARGV[8], ARGV[9])
local day = math.floor(unix_ms / DAY_MS)

-- Abandon reservations that were not renewed.
repeat
  local expired = redis.call('ZRANGEBYSCORE', OPEN, '-inf', whole(now), 'LIMIT', 0, 1000)
  if #expired > 0 then
    redis.call('ZREM', OPEN, unpack(expired))
    redis.call('HDEL', RESERVATIONS, unpack(expired))
  end
until #expired < 1000

local requests, tokens = read_buckets(now)
local refused, wait = '', 0
if per_minute then
  drain(requests, now)
  requests.limit = per_minute
  local request_wait = wait_ms(requests, 1)
  if request_wait > wait then
    refused, wait = 'requests', request_wait
  end
end
if tokens_per_minute then
  drain(tokens, now)
  tokens.limit = tokens_per_minute
  local token_wait = wait_ms(tokens, cost)
  if token_wait > wait then
    refused, wait = 'tokens', token_wait
  end
end
if wait < CONCURRENCY_WAIT_MS and concurrent and redis.call('ZCARD', OPEN) >= concurrent then
  refused, wait = 'concurrency', CONCURRENCY_WAIT_MS
end
if tokens_per_day and (tonumber(redis.call('HGET', DAYS, whole(day))) or 0) + cost > tokens_per_day then
  refused, wait = 'budget', (day + 1) * DAY_MS - unix_ms + 1
end

if refused == '' then
  local request_mark, token_mark, counted_day = '-', '-', '-'
  if tokens_per_day then
    counted_day = whole(day)
    if redis.call('HEXISTS', DAYS, counted_day) == 0 then
      -- A new day: keep those around it, because the clock may be set.
      for _, other in ipairs(redis.call('HKEYS', DAYS)) do
        if math.abs(tonumber(other) - day) > 1 then
          redis.call('HDEL', DAYS, other)
        end
      end
    end
    add_to_day(day, cost)
  end
  if per_minute then
    request_mark = whole(debit(requests, 1))
  end
  if tokens_per_minute then
    token_mark = whole(debit(tokens, cost))
  end
  redis.call('ZADD', OPEN, whole(now + lease_ms), id)
  redis.call('HSET', RESERVATIONS, id, table.concat({whole(cost), counted_day, request_mark, token_mark}, ' '))
  keep_reservations(lease_ms)
end
if per_minute or tokens_per_minute then
  write_buckets(requests, tokens, lease_ms)
end

local answer = {refused, wait, 0, 0, 0, 0}
if per_minute then
  answer[3], answer[4] = left(requests), reset_ms(requests)
end
if tokens_per_minute then
  answer[5], answer[6] = left(tokens), reset_ms(tokens)
end
return answer
