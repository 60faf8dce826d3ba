// Starts what the page has.

const data = JSON.parse(document.getElementById("data").textContent);
const ready = () => { document.documentElement.dataset.ready = "yes"; };
const place = document.querySelector(".explorer");
if (data.clips && place) explorer(place, data.clips).then(ready);
else ready();
