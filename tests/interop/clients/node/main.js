// etcd3, the client for Node: put, txn, watch, lease, lock, election.
const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

async function main() {
  const etcd = new Etcd3({ hosts: `http://${process.argv[2]}` });

  await etcd.put('js/a').value('1');
  assert.equal(await etcd.get('js/a').string(), '1');
  await etcd.put('js/b').value(Buffer.from([0, 255]));
  assert.deepEqual(Object.keys(await etcd.getAll().prefix('js/').strings()), ['js/a', 'js/b']);
  console.log('put');

  const txn = await etcd
    .if('js/a', 'Value', '==', '1')
    .then(etcd.put('js/a').value('2'), etcd.get('js/a'))
    .else(etcd.delete().key('js/a'))
    .commit();
  assert.equal(txn.succeeded, true);
  assert.equal(await etcd.get('js/a').string(), '2');
  console.log('txn');

  const watcher = await etcd.watch().prefix('js/w/').create();
  const heard = [];
  const done = new Promise((resolve) => {
    const note = (kind) => (pair) => {
      heard.push([kind, pair.key.toString()]);
      if (heard.length === 3) resolve();
    };
    watcher.on('put', note('put'));
    watcher.on('delete', note('delete'));
  });
  await etcd.put('js/w/1').value('x');
  await etcd.put('js/w/2').value('x');
  await etcd.delete().key('js/w/1');
  await done;
  assert.deepEqual(heard, [['put', 'js/w/1'], ['put', 'js/w/2'], ['delete', 'js/w/1']]);
  await watcher.cancel();
  console.log('watch');

  const lease = etcd.lease(60);
  await lease.put('js/leased').value('1');
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await etcd.get('js/leased').string(), null);
  console.log('lease');

  await etcd.lock('js-lock').ttl(30).do(async () => {
    await assert.rejects(etcd.lock('js-lock').ttl(30).acquire());
  });
  console.log('lock');

  const election = etcd.election('js-election', 30);
  const campaign = election.campaign('me');
  await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
  assert.equal(await election.leader(), 'me');
  await campaign.resign();
  console.log('election');

  etcd.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
