-- Drop entries, in whosever hands they are. KEYS: stream, attempts. ARGV: group, ids... Returns how many it was told.
for i = 2, #ARGV do
  remove(KEYS[1], KEYS[2], ARGV[1], ARGV[i])
end
return #ARGV - 1
